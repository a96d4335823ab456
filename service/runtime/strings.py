"""Strings that a model only moves: bytes of any kind go through it unharmed.

ONNX Runtime's strings are bytes, but its Python binding makes text of them and refuses what is not
UTF-8, on the way in or out. In Latin-1 every byte is a character, so that any bytes become valid
text and back. A graph that looks into its strings, or has some of its own, would see others
than were sent; one that only copies, cuts and arranges them cannot tell.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from service.inference.backend import Backend, Interrupt
from service.tensors import Array, Signature, Tensors

_MAX_BYTES: Final = 16 << 20  # of a model file that is looked through
_STRING: Final = 8  # TensorProto.DataType
_MOVERS: Final = frozenset(
    (
        "Compress", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
        "Identity", "Reshape", "ReverseSequence", "ScatterElements", "ScatterND", "Shape", "Size",
        "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
    )
)  # fmt: skip


class MovedStrings:
    """Backend of a graph that only moves strings: its BYTES elements are bytes, in and out."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    @property
    def signature(self) -> Signature:
        """Return what the model takes and gives."""
        return self._inner.signature

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run the model once; see Backend.run."""
        taken = {name: _to_text(array) for name, array in inputs.items()}
        given = self._inner.run(taken, outputs, interrupt)
        return {name: _to_bytes(array) for name, array in given.items()}

    def close(self) -> None:
        """Free the model."""
        self._inner.close()


def only_moves_strings(path: Path) -> bool:
    """Tell whether the graph of a model file does nothing to strings but arrange them.

    False for what cannot be told: a large file, operators that are not known to be harmless,
    strings in the file itself.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            return False
        model = _model_class().FromString(path.read_bytes())
    except (OSError, DecodeError):
        return False
    return all(
        node.op_type in _MOVERS and node.domain in ("", "ai.onnx") for node in model.graph.node
    ) and not any(tensor.data_type == _STRING for tensor in model.graph.initializer)


def _to_text(array: Array) -> Array:
    if not array.dtype.hasobject:
        return array
    text = np.empty(array.shape, dtype=object)
    text.reshape(-1)[:] = [element.decode("latin-1") for element in array.reshape(-1).tolist()]
    return text


def _to_bytes(array: Array) -> Array:
    if not array.dtype.hasobject:
        return array
    found = np.empty(array.shape, dtype=object)
    found.reshape(-1)[:] = [element.encode("latin-1") for element in array.reshape(-1).tolist()]
    return found


@cache
def _model_class() -> Any:
    """Return a message with those fields of onnx.ModelProto that matter; the server has no onnx."""
    file = descriptor_pb2.FileDescriptorProto(name="graph.proto", package="p", syntax="proto2")
    text, number, message = (
        descriptor_pb2.FieldDescriptorProto.Type.Value(name)
        for name in ("TYPE_STRING", "TYPE_INT32", "TYPE_MESSAGE")
    )
    for name, fields in {
        "Model": [("graph", 7, message, ".p.Graph", False)],
        "Graph": [
            ("node", 1, message, ".p.Node", True),
            ("initializer", 5, message, ".p.Tensor", True),
        ],
        "Node": [("op_type", 4, text, "", False), ("domain", 7, text, "", False)],
        "Tensor": [("data_type", 2, number, "", False)],
    }.items():
        kind = file.message_type.add(name=name)
        for field, at, of, type_name, repeated in fields:
            entry = kind.field.add(name=field, number=at, type=of, label=3 if repeated else 1)
            if type_name:
                entry.type_name = type_name
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.Model"))
