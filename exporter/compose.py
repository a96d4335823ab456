"""Pre- and post-processing written into the graph, with plain ONNX operators of its own opset."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from exporter.cases import Case
from exporter.errors import ConversionFailed, UsageError
from exporter.graph_edit import extents
from exporter.processing import Processing, postprocess, preprocess
from exporter.processing_nodes import After, Before
from exporter.variants import graph as graphs
from service.errors import listed
from service.tensors import Array, Tensors

_MIN_OPSET: Final = 18  # from it on Resize takes axes and ReduceL2 takes them as an input
# Height and width of what is resized: both larger, one of each, as they are, both smaller.
_SIZES: Final = ((2.3, 1.4), (0.6, 1.7), (1.0, 1.0), (0.4, 0.3))


def compose(
    model: Path,
    output: Path,
    processing: Processing,
    *,
    input_name: str = "",
    output_name: str = "",
) -> None:
    """Write a model that does the processing around another.

    input_name, output_name: what to work on; may be left out where there is only one.
    Raises UsageError if the processing does not fit the model: then nothing is written.
    """
    loaded = onnx.load(str(model))
    _check_opset(loaded)
    if processing.changes_input:
        Before(loaded, processing, _pick(loaded.graph.input, input_name, "input")).write()
    if processing.changes_output or processing.labels:
        After(loaded, processing, _pick(loaded.graph.output, output_name, "output")).write()
    try:
        onnx.checker.check_model(loaded)
    except onnx.checker.ValidationError as error:
        raise ConversionFailed(f"pre- and post-processing make no sound graph: {error}") from error
    graphs.save(loaded, output)


def pick_names(model: Path, input_name: str, output_name: str) -> tuple[str, str]:
    """Return the input and the output to work on; "" where the model has several to choose from.

    Raises UsageError for a name that the model does not have.
    """
    graph = onnx.load(str(model), load_external_data=False).graph
    return (
        _chosen_name(graph.input, input_name, "input"),
        _chosen_name(graph.output, output_name, "output"),
    )


def free_axes(model: Path, input_name: str) -> dict[int, str]:
    """Return the free axes of an input by number, with their names."""
    graph = onnx.load(str(model), load_external_data=False).graph
    shape = extents(_pick(graph.input, input_name, "input"))
    return {axis: extent for axis, extent in enumerate(shape) if isinstance(extent, str)}


def processed_cases(
    run: Callable[[Tensors], Tensors],
    cases: Sequence[Case],
    processing: Processing,
    *,
    input_name: str,
    output_name: str,
    seed: int = 0,
) -> tuple[Case, ...]:
    """Return cases for the composed model: inputs as clients send them, and right outputs.

    run: the model without processing, which is proved already; cases: of its proof. The
    processing around it is computed in numpy, on random data of the kind that clients send.
    """
    random = np.random.default_rng(seed)
    found = []
    for index, case in enumerate(cases):
        inputs = dict(case.inputs)
        if processing.changes_input:
            like = case.inputs[input_name]
            inputs[input_name] = _raw(processing, like, _SIZES[index % len(_SIZES)], random)
        fed = {**inputs}
        if processing.changes_input:
            fed[input_name] = preprocess(processing, inputs[input_name])
        outputs = run(fed)
        if processing.changes_output:
            outputs = postprocess(processing, outputs, output_name)
        found.append(replace(case, inputs=inputs, outputs=outputs))
    return tuple(found)


def _raw(
    processing: Processing, like: Array, factors: tuple[float, float], random: np.random.Generator
) -> Array:
    """Return random data as a client sends it, for an input of the model of this shape.

    factors: of height and width, where images are resized.
    """
    shape = list(like.shape)
    if processing.resize:
        shape[2:] = [
            max(1, round(extent * factor))
            for extent, factor in zip(processing.resize, factors, strict=True)
        ]
    if processing.layout == "nhwc":
        shape = [shape[0], *shape[2:], shape[1]]
    if processing.uint8:
        return random.integers(0, 256, shape, dtype=np.uint8)
    return random.uniform(0, 1 / processing.factor, shape).astype(like.dtype)


def _pick(values: Sequence[onnx.ValueInfoProto], name: str, kind: str) -> onnx.ValueInfoProto:
    names = [value.name for value in values]
    if not name and len(names) > 1:
        raise UsageError(f"the model has {kind}s {listed(names)}: say which one is to be processed")
    for value in values:
        if name in ("", value.name):
            return value
    raise UsageError(f"the model has no {kind} '{name}'; it has {listed(names)}")


def _chosen_name(values: Sequence[onnx.ValueInfoProto], name: str, kind: str) -> str:
    return str(_pick(values, name, kind).name) if name or len(values) == 1 else ""


def _check_opset(model: onnx.ModelProto) -> None:
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < _MIN_OPSET:
        raise UsageError(
            f"the model is of opset {opset}; processing in the graph needs {_MIN_OPSET} or later",
        )
