"""The nodes of pre- and post-processing, put around a graph in place.

Plain operators of opset 18 or later. What they compute stands in `exporter.processing`.
"""

from collections.abc import MutableSequence, Sequence
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporter.errors import UsageError
from exporter.graph_edit import extents, free_name, put_first, rename_value
from exporter.processing import EPSILON, Processing, check_channels
from service.errors import listed
from service.tensors import Array

_FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_HEIGHT, _WIDTH = "height", "width"


class _Writer:
    """Makes nodes and constants for one value of the graph, with names that are free in it.

    nodes: gets the nodes, in order.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        processing: Processing,
        value: onnx.ValueInfoProto,
        nodes: MutableSequence[onnx.NodeProto],
    ) -> None:
        self._graph = model.graph
        self._processing = processing
        self._value = value
        self._nodes = nodes
        self._type = value.type.tensor_type.elem_type
        self._shape = extents(value)

    def _add(self, operator: str, inputs: list[str], **attributes: object) -> str:
        out = free_name(self._graph, f"{self._value.name}.{operator.lower()}")
        self._nodes.append(helper.make_node(operator, inputs, [out], out, **attributes))
        return out

    def _constant(self, what: str, array: Array) -> str:
        name = free_name(self._graph, f"{self._value.name}.{what}")
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name


class Before(_Writer):
    """Puts nodes between an input of the graph and what read it."""

    def __init__(
        self, model: onnx.ModelProto, processing: Processing, value: onnx.ValueInfoProto
    ) -> None:
        self._first: list[onnx.NodeProto] = []
        super().__init__(model, processing, value, self._first)
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
        """Put the nodes into the graph."""
        wanted = self._processing
        name = self._value.name
        inner = free_name(self._graph, f"{name}.processed")
        rename_value(self._graph, name, inner)
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
        self._first[-1].output[0] = inner
        put_first(self._graph, self._first)
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

    def _numbers(self, what: str, values: Sequence[float]) -> str:
        dtype = helper.tensor_dtype_to_np_dtype(self._type)
        array = np.array(values, dtype)
        if len(values) > 1 and len(self._shape) == 4:
            array = array.reshape(-1, 1, 1)
        return self._constant(what, array if len(values) > 1 else array.reshape(()))


class After(_Writer):
    """Puts nodes between what made an output and the output."""

    def __init__(
        self, model: onnx.ModelProto, processing: Processing, value: onnx.ValueInfoProto
    ) -> None:
        super().__init__(model, processing, value, model.graph.node)
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
        """Put the nodes into the graph."""
        wanted = self._processing
        if not wanted.changes_output:
            return
        name = self._value.name
        raw = free_name(self._graph, f"{name}.raw")
        rename_value(self._graph, name, raw)
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
