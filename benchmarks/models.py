"""The models of the benchmarks, made from nothing: `python -m benchmarks.models out/bench`.

All have random weights, one FP32 input and output, and a batch of any size in axis 0:

- mlp: the digits-sized MLP, 784 -> 128 -> 10. Its run costs less than the network does.
- cnn: 3x112x112 through six convolutions, about 5 ms a row on one CPU.
- encoder: four transformer layers, 128 tokens of width 256, eight heads of attention.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET: Final = 20
_IR: Final = 10


class GraphBuilder:
    """Adds nodes one after another; each takes names of values and returns that of its result."""

    def __init__(self, name: str, shape: Sequence[int]) -> None:
        """Begin with an input `input` of [batch, *shape]."""
        self._name = name
        self._input = _value("input", shape)
        self._random = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output."""
        output = f"v{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, *shape: int) -> str:
        """Add random weights, scaled so that variances stay about one."""
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        values = self._random.standard_normal(shape) * fan_in**-0.5
        return self.constant(values.astype(np.float32))

    def constant(self, values: "np.ndarray[Any, Any]") -> str:
        """Add a constant."""
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def linear(self, source: str, inputs: int, outputs: int) -> str:
        """Add a product with weights, and a bias."""
        product = self.node("MatMul", source, self.weight(inputs, outputs))
        return self.node("Add", product, self.constant(np.zeros(outputs, np.float32)))

    def model(self, output: str, shape: Sequence[int]) -> onnx.ModelProto:
        """Return the model that gives one value, as `output` of [batch, *shape]."""
        self._nodes.append(helper.make_node("Identity", [output], ["output"]))
        graph = helper.make_graph(
            self._nodes, self._name, [self._input], [_value("output", shape)], self._weights
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def mlp() -> onnx.ModelProto:
    """784 -> 128 -> 10."""
    graph = GraphBuilder("mlp", (784,))
    hidden = graph.node("Relu", graph.linear("input", 784, 128))
    return graph.model(graph.linear(hidden, 128, 10), (10,))


def cnn() -> onnx.ModelProto:
    """Six convolutions of 3x3 over 3x112x112, three of them halving, and a classifier."""
    graph = GraphBuilder("cnn", (3, 112, 112))
    value, channels = "input", 3
    for outputs, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2)):
        value = graph.node(
            "Conv",
            value,
            graph.weight(outputs, channels, 3, 3),
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            strides=[stride, stride],
        )
        value, channels = graph.node("Relu", value), outputs
    pooled = graph.node("Flatten", graph.node("GlobalAveragePool", value))
    return graph.model(graph.linear(pooled, channels, 10), (10,))


def encoder(
    layers: int = 4, tokens: int = 128, width: int = 256, heads: int = 8
) -> onnx.ModelProto:
    """Stack transformer layers over embedded tokens, normalised before each half."""
    graph = GraphBuilder("encoder", (tokens, width))
    value = "input"
    for _ in range(layers):
        attended = _attention(graph, _norm(graph, value, width), tokens, width, heads)
        value = graph.node("Add", value, attended)
        hidden = graph.linear(_norm(graph, value, width), width, 4 * width)
        hidden = graph.node("Gelu", hidden)
        value = graph.node("Add", value, graph.linear(hidden, 4 * width, width))
    first = graph.node("Gather", value, graph.constant(np.array(0)), axis=1)
    return graph.model(graph.linear(first, width, 10), (10,))


MODELS: Final[dict[str, Callable[[], onnx.ModelProto]]] = {
    "mlp": mlp,
    "cnn": cnn,
    "encoder": encoder,
}


def _norm(graph: GraphBuilder, value: str, width: int) -> str:
    scale, bias = np.ones(width, np.float32), np.zeros(width, np.float32)
    return graph.node(
        "LayerNormalization", value, graph.constant(scale), graph.constant(bias), axis=-1
    )


def _attention(graph: GraphBuilder, value: str, tokens: int, width: int, heads: int) -> str:
    split = graph.constant(np.array([-1, tokens, heads, width // heads]))
    query, key, each = (
        graph.node(
            "Transpose",
            graph.node("Reshape", graph.linear(value, width, width), split),
            perm=perm,
        )
        for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
    )
    scale = graph.constant(np.array((width // heads) ** -0.5, np.float32))
    scores = graph.node("Mul", graph.node("MatMul", query, key), scale)
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), each)
    joined = graph.node("Transpose", mixed, perm=(0, 2, 1, 3))
    flat = graph.node("Reshape", joined, graph.constant(np.array([-1, tokens, width])))
    return graph.linear(flat, width, width)


def _value(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def main(directory: Path) -> None:
    """Write every model into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, build in MODELS.items():
        onnx.save(build(), directory / f"{name}.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
