"""What models of tables have in common: one input of numbers, examples, and names of outputs.

Knows numpy and ONNX; knows no library of models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx import version_converter

from exporter.errors import ConversionFailed, UsageError, in_one_line
from exporter.inputs import make_inputs
from exporter.sources.base import Opened, Request
from exporter.sources.graph import apply_names, number_names
from service.errors import dims, listed
from service.tensors import Array, Tensors

FEATURES: Final = "features"  # name of the input unless another is given
_ML_DOMAIN: Final = "ai.onnx.ml"
ML_OPSET: Final = 3  # of ai.onnx.ml: what all converters write and every runtime reads


@dataclass(frozen=True, slots=True)
class Tabular:
    """A fitted model of a table.

    kept: positions of the converter's outputs that are served, with their names. predict: these
    outputs for rows FP32 [n, width]. convert: the model in ONNX, with one input.
    labels: names of classes that are no numbers.
    """

    what: str
    width: int
    kept: Mapping[int, str]
    predict: Callable[[Array], Sequence[Array]]
    convert: Callable[[], onnx.ModelProto]
    labels: tuple[str, ...] = ()


@contextmanager
def opened(model: Tabular, request: Request, provenance: Mapping[str, str]) -> Iterator[Opened]:
    """Convert the model and give it as a source. Raises UsageError or ConversionFailed."""
    if not request.batch:
        raise UsageError(f"a {model.what} has no fixed shape: leave out --no-batch (batch=False)")
    try:
        proto = model.convert()
    except Exception as error:  # the converters raise errors of every kind
        raise ConversionFailed(
            f"no converter for this {model.what}: {type(error).__name__}: {in_one_line(error)}\n"
            "  Take another estimator (of scikit-learn, most linear models, trees, forests, "
            "nearest neighbours and networks convert; so do XGBoost and LightGBM).",
        ) from error
    proto = _upgraded(proto, request.opset)
    graph = _model_with(proto, list(model.kept))
    name = _input_name(request)
    outputs = request.output_names or tuple(model.kept.values())
    inputs = make_inputs(
        {name: _examples(model, proto, request)}, batch=True, ranges=request.ranges
    )

    def run(tensors: Tensors) -> Sequence[Array]:
        return model.predict(tensors[name])

    def convert() -> ir.Model:
        apply_names(graph, inputs, outputs)
        return graph

    opset = graph.opset_imports.setdefault("", request.opset)
    yield Opened(
        inputs, tuple(outputs), run, convert, opset, {"module": request.label, **provenance},
        labels=model.labels,
    )  # fmt: skip


def class_labels(classes: Any) -> tuple[str, ...]:
    """Return the names of classes, () if they are 0, 1, 2 and so on."""
    values = np.asarray(classes)
    if np.issubdtype(values.dtype, np.number) and np.array_equal(values, np.arange(len(values))):
        return ()
    return tuple(str(value) for value in values)


def column(values: Any) -> Array:
    """Return predictions as FP32 with a batch axis and at least one more, as in the graph."""
    array = np.asarray(values, dtype=np.float32)
    return array.reshape(-1, 1) if array.ndim == 1 else array


def _input_name(request: Request) -> str:
    names = request.input_names or tuple(spec.name for spec in request.specs) or (FEATURES,)
    if len(names) != 1:
        raise UsageError(f"inputs {listed(names)} were given; the model has one, a table of rows")
    return names[0]


def _examples(model: Tabular, proto: onnx.ModelProto, request: Request) -> Array:
    """Return the user's rows, else rows that take many ways through the model."""
    given = request.examples
    if isinstance(given, Mapping):
        given = next(iter(given.values()), None)
    if given is None or (request.specs and not request.has_samples):
        return _invented(proto, model.width, max(2, request.max_batch_size), request.seed)
    rows = np.asarray(given, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != model.width:
        raise UsageError(
            f"the example has shape {dims(rows.shape)}, but the {model.what} was fitted to "
            f"{model.width} columns: expected [rows,{model.width}]",
        )
    return rows


def _invented(proto: onnx.ModelProto, width: int, rows: int, seed: int) -> Array:
    """Return rows around what the model itself compares with: thresholds, means."""
    random = np.random.default_rng(seed)
    low, high = np.full(width, -1.0), np.full(width, 1.0)
    for node in proto.graph.node:
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type.startswith("TreeEnsemble") and "nodes_values" in values:
            for feature, threshold, mode in zip(
                values["nodes_featureids"], values["nodes_values"], values["nodes_modes"],
                strict=True,
            ):  # fmt: skip
                if mode != b"LEAF" and feature < width:
                    low[feature] = min(low[feature], threshold)
                    high[feature] = max(high[feature], threshold)
        if node.op_type == "Scaler" and len(values.get("offset", ())) == width:
            spread = 2 / np.maximum(np.abs(np.asarray(values["scale"])), 1e-6)
            low = np.minimum(low, np.asarray(values["offset"]) - spread)
            high = np.maximum(high, np.asarray(values["offset"]) + spread)
    margin = 0.1 * (high - low)
    return random.uniform(low - margin, high + margin, (rows, width)).astype(np.float32)


def _upgraded(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return the model at this opset, or as it is if it holds what cannot be upgraded."""
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    if _ML_DOMAIN in versions:
        # Some converters ask for version 1 and write operators of version 3.
        versions[_ML_DOMAIN] = max(versions[_ML_DOMAIN], ML_OPSET)
    del proto.opset_import[:]
    proto.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in versions.items())
    if versions.get("", opset) >= opset:
        return proto
    try:
        return version_converter.convert_version(proto, opset)
    except (RuntimeError, ValueError, onnx.checker.ValidationError):
        return proto


def _model_with(proto: onnx.ModelProto, kept: Sequence[int]) -> ir.Model:
    """Return the graph with these of its outputs only, and the one input."""
    model: ir.Model = ir.from_proto(proto)
    outputs = list(model.graph.outputs)
    model.graph.outputs[:] = [outputs[position] for position in kept]
    number_names(model)
    return model
