"""Pre- and post-processing written into the graph, with plain ONNX operators of its own opset."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporter.cases import Case
from exporter.errors import ConversionFailed, UsageError
from exporter.processing import (
    EPSILON,
    Processing,
    check_channels,
    postprocess,
    preprocess,
)
from exporter.variants import graph as graphs
from service.errors import listed
from service.tensors import Array, Tensors

_MIN_OPSET: Final = 18  # from it on Resize takes axes and ReduceL2 takes them as an input
_FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
# Height and width of what is resized: both larger, one of each, as they are, both smaller.
_SIZES: Final = ((2.3, 1.4), (0.6, 1.7), (1.0, 1.0), (0.4, 0.3))
_HEIGHT, _WIDTH = "height", "width"


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
        _Before(loaded, processing, _pick(loaded.graph.input, input_name, "input")).write()
    if processing.changes_output or processing.labels:
        _After(loaded, processing, _pick(loaded.graph.output, output_name, "output")).write()
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
    extents = _extents(_pick(graph.input, input_name, "input"))
    return {axis: str(extent) for axis, extent in enumerate(extents) if isinstance(extent, str)}


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
        found.append(Case(case.rows, inputs, outputs))
    return tuple(found)


class _Before:
    """Puts nodes between an input of the graph and what read it."""

    def __init__(
        self, model: onnx.ModelProto, processing: Processing, value: onnx.ValueInfoProto
    ) -> None:
        self._graph = model.graph
        self._processing = processing
        self._value = value
        self._nodes: list[onnx.NodeProto] = []
        self._type = value.type.tensor_type.elem_type
        self._shape = _extents(value)
        if self._type not in _FLOATS:
            raise UsageError(f"input '{value.name}' is no float: nothing can be normalised in it")
        is_image = len(self._shape) == 4
        if not is_image and (processing.resize or processing.layout != "nchw"):
            raise UsageError(
                f"input '{value.name}' has {len(self._shape)} axes; only images "
                "[batch, channels, height, width] can be resized or have channels last",
            )
        if processing.resize:
            _check_size(value.name, self._shape, processing.resize)
        check_channels(processing, [e if isinstance(e, int) else None for e in self._shape])

    def write(self) -> None:
        wanted = self._processing
        name = self._value.name
        inner = _free_name(self._graph, f"{name}.processed")
        _rename(self._graph, name, inner)
        current = name
        if wanted.uint8:
            current = self._add("Cast", [current], to=self._type)
        if wanted.layout == "nhwc":
            current = self._add("Transpose", [current], perm=[0, 3, 1, 2])
        if wanted.resize:
            current = self._add(
                "Resize", [current, "", "", self._constant("size", np.array(wanted.resize, "i8"))],
                mode="linear", coordinate_transformation_mode="half_pixel", axes=[2, 3],
            )  # fmt: skip
        if wanted.factor != 1.0:
            current = self._add("Mul", [current, self._numbers("scale", (wanted.factor,))])
        if wanted.mean:
            current = self._add("Sub", [current, self._numbers("mean", wanted.mean)])
            current = self._add("Div", [current, self._numbers("std", wanted.std)])
        self._nodes[-1].output[0] = inner
        _put_first(self._graph, self._nodes)
        self._declare()

    def _declare(self) -> None:
        """Give the input of the graph the type and shape that clients send."""
        shape: list[int | str | None] = list(self._shape)
        if self._processing.resize:
            shape[2:] = [_HEIGHT, _WIDTH]
        if self._processing.layout == "nhwc":
            shape = [shape[0], shape[2], shape[3], shape[1]]
        kind = TensorProto.UINT8 if self._processing.uint8 else self._type
        self._value.CopyFrom(helper.make_tensor_value_info(self._value.name, kind, shape))

    def _add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        out = _free_name(self._graph, f"{self._value.name}.{operator.lower()}")
        self._nodes.append(helper.make_node(operator, inputs, [out], out, **attributes))
        return out

    def _numbers(self, what: str, values: Sequence[float]) -> str:
        dtype = helper.tensor_dtype_to_np_dtype(self._type)
        array = np.array(values, dtype)
        if len(values) > 1 and len(self._shape) == 4:
            array = array.reshape(-1, 1, 1)
        return self._constant(what, array if len(values) > 1 else array.reshape(()))

    def _constant(self, what: str, array: Array) -> str:
        name = _free_name(self._graph, f"{self._value.name}.{what}")
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name


class _After:
    """Puts nodes between what made an output and the output."""

    def __init__(
        self, model: onnx.ModelProto, processing: Processing, value: onnx.ValueInfoProto
    ) -> None:
        self._graph = model.graph
        self._processing = processing
        self._value = value
        self._type = value.type.tensor_type.elem_type
        self._shape = _extents(value)
        classes = self._shape[-1] if self._shape else None
        if self._type not in _FLOATS or not self._shape:
            raise UsageError(f"output '{value.name}' holds no scores: it is no float, or no row")
        if isinstance(classes, int) and processing.top_k > classes:
            raise UsageError(f"top-k is {processing.top_k}, but '{value.name}' has {classes}")
        if processing.labels and isinstance(classes, int) and len(processing.labels) != classes:
            raise UsageError(
                f"{len(processing.labels)} labels for the {classes} classes of '{value.name}'",
            )
        if any(value.name == item.name for item in model.graph.input):
            raise UsageError(f"output '{value.name}' is an input passed through; it has no scores")

    def write(self) -> None:
        wanted = self._processing
        if not wanted.changes_output:
            return
        name = self._value.name
        raw = _free_name(self._graph, f"{name}.raw")
        _rename(self._graph, name, raw)
        current = raw
        if wanted.softmax:
            current = self._add("Softmax", [current], axis=-1)
        if wanted.sigmoid:
            current = self._add("Sigmoid", [current])
        if wanted.l2_normalize:
            current = self._normalised(current)
        if wanted.top_k:
            self._replace_by_top(current)
        else:
            self._graph.node[-1].output[0] = name

    def _normalised(self, current: str) -> str:
        norm = self._add("ReduceL2", [current, self._constant("axis", np.array([-1], "i8"))])
        dtype = helper.tensor_dtype_to_np_dtype(self._type)
        least = max(EPSILON, float(np.finfo(dtype).tiny))
        safe = self._add("Max", [norm, self._constant("least", np.array(least, dtype))])
        return self._add("Div", [current, safe])

    def _replace_by_top(self, current: str) -> None:
        name, count = self._value.name, self._processing.top_k
        names = [f"{name}_scores", f"{name}_indices"]
        taken = {value.name for value in (*self._graph.input, *self._graph.output)}
        if taken & set(names):
            raise UsageError(f"top-k would make outputs {listed(names)}, which exist already")
        k = self._constant("k", np.array([count], "i8"))
        node = helper.make_node("TopK", [current, k], names, f"{name}.topk", axis=-1)
        self._graph.node.append(node)
        shape = [*self._shape[:-1], count]
        place = list(self._graph.output).index(self._value)
        outputs = list(self._graph.output)
        outputs[place : place + 1] = [
            helper.make_tensor_value_info(names[0], self._type, shape),
            helper.make_tensor_value_info(names[1], TensorProto.INT64, shape),
        ]
        del self._graph.output[:]
        self._graph.output.extend(outputs)

    def _add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        out = _free_name(self._graph, f"{self._value.name}.{operator.lower()}")
        self._graph.node.append(helper.make_node(operator, inputs, [out], out, **attributes))
        return out

    def _constant(self, what: str, array: Array) -> str:
        name = _free_name(self._graph, f"{self._value.name}.{what}")
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name


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


def _check_size(name: str, shape: Sequence[int | str | None], size: tuple[int, int]) -> None:
    wrong = [
        want
        for extent, want in zip(shape[2:], size, strict=True)
        if isinstance(extent, int) and extent != want
    ]
    if wrong:
        raise UsageError(
            f"--resize {size[0]}x{size[1]}, but input '{name}' of the model is "
            f"{shape[2]}x{shape[3]}: it must be the size that the model takes",
        )


def _extents(value: onnx.ValueInfoProto) -> list[int | str | None]:
    return [
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in value.type.tensor_type.shape.dim
    ]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a value wherever nodes read or write it; the graph's own signature stays."""
    for node in graphs.nodes_of(graph):
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for inner in _inner_graphs(graph):
        for value in inner.output:
            if value.name == old:
                value.name = new


def _inner_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    return [
        inner
        for node in graphs.nodes_of(graph)
        for attribute in node.attribute
        for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs)
    ]


def _put_first(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    rest = [*graph.node]
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _free_name(graph: onnx.GraphProto, wanted: str) -> str:
    """Return a name that no value of the graph has."""
    taken = {name for node in graphs.nodes_of(graph) for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer}
    taken |= {value.name for value in (*graph.input, *graph.output)}
    name, count = wanted, 1
    while name in taken:
        name, count = f"{wanted}.{count}", count + 1
    return name
