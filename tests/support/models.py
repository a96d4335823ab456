"""Small ONNX models for the tests, and how they are laid out in a repository.

Every function returns the bytes of a model that takes X and gives Y unless it says otherwise.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from service.repository.model_config import data_type_of
from service.tensors import BF16, BYTES, FP32, INT32, INT64, Array, Datatype

_OPSET: Final = 21
_IR: Final = 10

ONNX_TYPES: Final = {
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}

SIMPLE_CONFIG: Final = """
name: "simple"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [
  { name: "INPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "INPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
output [
  { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 16 ] },
  { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ 16 ] }
]
dynamic_batching { }
"""

Extents = Sequence[int | str]


def publish(
    root: Path, name: str, model: bytes, *, version: int = 1, config: str | None = None
) -> Path:
    """Write a version of a model into a repository and return the ONNX file."""
    directory = root / name / str(version)
    directory.mkdir(parents=True)
    path = directory / "model.onnx"
    path.write_bytes(model)
    if config is not None:
        (root / name / "config.pbtxt").write_text(config)
    return path


def publish_by_rename(root: Path, name: str, model: bytes, version: int) -> None:
    """Write a version as an exporter does: aside, then moved into its place."""
    aside = root / name / f".tmp-{version}"
    aside.mkdir(parents=True)
    (aside / "model.onnx").write_bytes(model)
    aside.rename(root / name / str(version))


def onnx_type(datatype: Datatype) -> int:
    """Return the TensorProto type of a datatype."""
    known = ONNX_TYPES.get(datatype.wire)
    return int(known if known is not None else TensorProto.DataType.Value(datatype.wire))


def identity(datatype: Datatype, shape: Extents = ("batch", "n")) -> bytes:
    """Y is X."""
    node = helper.make_node("Identity", ["X"], ["Y"])
    return onnx_model([node], [("X", datatype, shape)], [("Y", datatype, shape)])


def identity_config(name: str, datatype: Datatype, max_batch_size: int, extra: str = "") -> str:
    """Return a config.pbtxt for identity with shape [batch, n]."""
    data_type = data_type_of(datatype)
    return (
        f'name: "{name}" max_batch_size: {max_batch_size} '
        f'input {{ name: "X" data_type: {data_type} dims: -1 }} '
        f'output {{ name: "Y" data_type: {data_type} dims: -1 }} {extra}'
    )


def simple() -> bytes:
    """INPUT0, INPUT1 INT32 [batch,16]: OUTPUT0 is their sum, OUTPUT1 their difference."""
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    shape = ("batch", 16)
    return onnx_model(
        nodes,
        [("INPUT0", INT32, shape), ("INPUT1", INT32, shape)],
        [("OUTPUT0", INT32, shape), ("OUTPUT1", INT32, shape)],
    )


def mlp(seed: int = 7, sizes: Sequence[int] = (784, 128, 10)) -> bytes:
    """FP32 [batch,784] through two layers to [batch,10]."""
    random = np.random.default_rng(seed)
    scale = 0.05
    weights = {
        f"W{i}": (random.standard_normal((a, b)) * scale).astype(np.float32)
        for i, (a, b) in enumerate(pairwise(sizes))
    }
    nodes = [
        helper.make_node("MatMul", ["X", "W0"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "W1"], ["Y"]),
    ]
    return onnx_model(
        nodes,
        [("X", FP32, ("batch", sizes[0]))],
        [("Y", FP32, ("batch", sizes[-1]))],
        weights,
    )


def add_constant(value: float) -> bytes:
    """FP32 [batch,1]: Y is X + value, so that an answer tells which version gave it."""
    node = helper.make_node("Add", ["X", "value"], ["Y"])
    shape = ("batch", 1)
    constants = {"value": np.array(value, np.float32)}
    return onnx_model([node], [("X", FP32, shape)], [("Y", FP32, shape)], constants)


def coupled() -> bytes:
    """FP32 [batch,4]: softmax over the batch, so that no row is independent of the others."""
    node = helper.make_node("Softmax", ["X"], ["Y"], axis=0)
    shape = ("batch", 4)
    return onnx_model([node], [("X", FP32, shape)], [("Y", FP32, shape)])


def gather(rows: int = 8) -> bytes:
    """INT64 [batch,1] index into a table of FP32: fails for an index outside it."""
    table = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    nodes = [helper.make_node("Gather", ["table", "X"], ["Y"], axis=0)]
    return onnx_model(
        nodes, [("X", INT64, ("batch", 1))], [("Y", FP32, ("batch", 1, 2))], {"table": table}
    )


def slow(size: int = 256) -> bytes:
    """INT64 [batch,1]: Y is X, after as many matrix products as the largest X says.

    One product of the default size takes about 0.2 ms on one CPU.
    """
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["matrix", "state"], ["next"]),
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [size, size]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, [size, size]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["steps"], keepdims=0),
        helper.make_node("Loop", ["steps", "", "matrix"], ["result"], body=body),
        helper.make_node("ReduceMax", ["result"], ["zero"], keepdims=0),
        helper.make_node("Cast", ["zero"], ["nothing"], to=TensorProto.INT64),
        helper.make_node("Add", ["X", "nothing"], ["Y"]),
    ]
    shape = ("batch", 1)
    matrix = {"matrix": np.zeros((size, size), np.float32)}
    return onnx_model(nodes, [("X", INT64, shape)], [("Y", INT64, shape)], matrix)


def scalar() -> bytes:
    """FP32 of rank 0: Y is X + 1."""
    node = helper.make_node("Add", ["X", "one"], ["Y"])
    return onnx_model(
        [node], [("X", FP32, ())], [("Y", FP32, ())], {"one": np.array(1.0, np.float32)}
    )


def fixed_batch(rows: int = 2) -> bytes:
    """FP32 [rows,3]: Y is X, and no other number of rows is taken."""
    return identity(FP32, (rows, 3))


def two_axes() -> bytes:
    """FP32 [batch,length]: Y is the sum of each row, [batch,1]; both axes are dynamic."""
    nodes = [helper.make_node("ReduceSum", ["X", "axes"], ["Y"], keepdims=1)]
    return onnx_model(
        nodes,
        [("X", FP32, ("batch", "length"))],
        [("Y", FP32, ("batch", 1))],
        {"axes": np.array([1], np.int64)},
    )


def onnx_model(
    nodes: Sequence[object],
    inputs: Sequence[tuple[str, Datatype, Extents]],
    outputs: Sequence[tuple[str, Datatype, Extents]],
    constants: dict[str, Array] | None = None,
) -> bytes:
    """Return the bytes of a model of these nodes; constants are its initialisers."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(n, onnx_type(d), list(s)) for n, d, s in inputs],
        [helper.make_tensor_value_info(n, onnx_type(d), list(s)) for n, d, s in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    return serialised_graph(graph)


def serialised_graph(graph: GraphProto) -> bytes:
    """Return the bytes of a model of this graph."""
    model: ModelProto = helper.make_model(
        graph, ir_version=_IR, opset_imports=[helper.make_opsetid("", _OPSET)]
    )
    serialised: bytes = model.SerializeToString()
    return serialised


def sample(random: np.random.Generator, datatype: Datatype, shape: Sequence[int]) -> Array:
    """Return random values of a datatype as the server carries them; BYTES elements are bytes."""
    if datatype is BYTES:
        flat = np.empty(int(np.prod(shape)), dtype=object)
        flat[:] = [f"value {number}\0é".encode() for number in random.integers(0, 1000, flat.size)]
        return flat.reshape(shape)
    if datatype is BF16:
        return (random.standard_normal(shape).astype("<f4").view("<u4") >> 16).astype("<u2")
    if datatype.wire == "BOOL":
        return random.integers(0, 2, shape).astype(np.bool_)
    if np.issubdtype(datatype.numpy, np.integer):
        limits = np.iinfo(datatype.numpy)
        return random.integers(limits.min, limits.max, shape, datatype.numpy, endpoint=True)
    return random.standard_normal(shape).astype(datatype.numpy)
