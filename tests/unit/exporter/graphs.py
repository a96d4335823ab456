"""Small ONNX files for the tests of compression: linear layers, convolutions, or neither."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporter.cases import Case
from service.tensors import Array


def linear(path: Path, widths: Sequence[int] = (16, 32, 4), seed: int = 0) -> Path:
    """Write a chain of Gemm and Relu: x FP32 [batch, widths[0]] to y FP32 [batch, widths[-1]]."""
    random = np.random.default_rng(seed)
    nodes, constants, current = [], [], "x"
    for index, (before, after) in enumerate(pairwise(widths)):
        weight = random.standard_normal((after, before)).astype(np.float32) / before**0.5
        bias = random.standard_normal(after).astype(np.float32) * 0.1
        constants += [(f"w{index}", weight), (f"b{index}", bias)]
        is_last = index == len(widths) - 2
        out = "y" if is_last else f"h{index}"
        nodes.append(helper.make_node("Gemm", [current, f"w{index}", f"b{index}"], [out], transB=1))
        current = out
        if not is_last:
            current = f"r{index}"
            nodes.append(helper.make_node("Relu", [out], [current]))
    return _save(path, nodes, ["batch", widths[0]], ["batch", widths[-1]], constants)


def convolution(path: Path, channels: int = 3, size: int | str = 8, seed: int = 0) -> Path:
    """Write Conv, Relu, mean, Gemm: x FP32 [batch, channels, size, size] to y FP32 [batch, 5]."""
    random = np.random.default_rng(seed)
    constants = [
        ("k", random.standard_normal((8, channels, 3, 3)).astype(np.float32) / 5),
        ("w", random.standard_normal((8, 5)).astype(np.float32) / 3),
        ("axes", np.array([2, 3], np.int64)),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "w"], ["y"]),
    ]
    return _save(path, nodes, ["batch", channels, size, size], ["batch", 5], constants)


def plain(path: Path) -> Path:
    """Write y = relu(x): nothing to quantise."""
    return _save(path, [helper.make_node("Relu", ["x"], ["y"])], ["batch", 4], ["batch", 4], [])


def cases(*shape: int, rows: Sequence[int] = (1, 2, 3, 16), seed: int = 0) -> list[Case]:
    """Return cases of a proof with random rows of this shape for the input x."""
    random = np.random.default_rng(seed)
    return [Case(count, {"x": random.random((count, *shape), np.float32)}, {}) for count in rows]


def _save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    shape_in: Sequence[int | str],
    shape_out: Sequence[int | str],
    constants: Sequence[tuple[str, Array]],
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape_in))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(shape_out))],
        [numpy_helper.from_array(array, name) for name, array in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))
    return path
