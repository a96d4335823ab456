"""Datatypes and tensors: the names of each type in every world, and the wire form of contents.

Knows numpy and the wire; knows no protobuf and no ONNX Runtime. BF16 has no numpy type of its
own: its tensors are uint16 arrays of the same bits, told apart by the Datatype beside them.
BYTES tensors are object arrays whose elements are `bytes`.
"""

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Tensors: TypeAlias = dict[str, Array]

_LENGTH: Final = struct.Struct("<I")  # the length before each BYTES element


class MalformedContents(ValueError):
    """Raw contents that do not hold what their shape and datatype say. The text says why."""


@dataclass(frozen=True, slots=True)
class Datatype:
    """An element type. Instances are the members of DATATYPES; compare them by identity."""

    wire: str  # name on the wire, e.g. "FP32"
    config: str  # name in config.pbtxt, e.g. "TYPE_FP32"
    onnx: str  # name that ONNX Runtime reports, e.g. "tensor(float)"
    numpy: np.dtype[Any]  # type of the arrays that carry it
    itemsize: int  # bytes an element; 0 for BYTES
    contents: str | None  # field of InferTensorContents; None: raw only

    def __str__(self) -> str:
        return self.wire


def _datatype(wire: str, onnx: str, numpy: str, contents: str | None) -> Datatype:
    config = "TYPE_STRING" if wire == "BYTES" else f"TYPE_{wire}"
    dtype = np.dtype(numpy)
    itemsize = 0 if wire == "BYTES" else dtype.itemsize
    return Datatype(wire, config, f"tensor({onnx})", dtype, itemsize, contents)


BOOL: Final = _datatype("BOOL", "bool", "?", "bool_contents")
UINT8: Final = _datatype("UINT8", "uint8", "u1", "uint_contents")
UINT16: Final = _datatype("UINT16", "uint16", "<u2", "uint_contents")
UINT32: Final = _datatype("UINT32", "uint32", "<u4", "uint_contents")
UINT64: Final = _datatype("UINT64", "uint64", "<u8", "uint64_contents")
INT8: Final = _datatype("INT8", "int8", "i1", "int_contents")
INT16: Final = _datatype("INT16", "int16", "<i2", "int_contents")
INT32: Final = _datatype("INT32", "int32", "<i4", "int_contents")
INT64: Final = _datatype("INT64", "int64", "<i8", "int64_contents")
FP16: Final = _datatype("FP16", "float16", "<f2", None)
FP32: Final = _datatype("FP32", "float", "<f4", "fp32_contents")
FP64: Final = _datatype("FP64", "double", "<f8", "fp64_contents")
BF16: Final = _datatype("BF16", "bfloat16", "<u2", None)
BYTES: Final = _datatype("BYTES", "string", "O", "bytes_contents")

DATATYPES: Final = (
    BOOL,
    UINT8,
    UINT16,
    UINT32,
    UINT64,
    INT8,
    INT16,
    INT32,
    INT64,
    FP16,
    FP32,
    FP64,
    BF16,
    BYTES,
)
BY_WIRE: Final[Mapping[str, Datatype]] = {d.wire: d for d in DATATYPES}
BY_CONFIG: Final[Mapping[str, Datatype]] = {d.config: d for d in DATATYPES}
BY_ONNX: Final[Mapping[str, Datatype]] = {d.onnx: d for d in DATATYPES}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    shape: extents as the client sees them, the batch dimension included; -1: any extent.
    optional: a request may leave the input out.
    """

    name: str
    datatype: Datatype
    shape: Shape
    optional: bool = False

    def admits(self, shape: Sequence[int]) -> bool:
        """Tell whether a tensor of this shape fits; a negative extent never does."""
        return len(shape) == len(self.shape) and all(
            got >= 0 and want in (got, -1) for want, got in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives.

    batched: axis 0 of every input and output is the batch: rows are independent of each other.
    takes_bytes: elements of BYTES inputs may be any bytes; else they reach the model as text.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool
    takes_bytes: bool = False

    def input(self, name: str) -> TensorSpec | None:
        """Return the input of that name."""
        return next((spec for spec in self.inputs if spec.name == name), None)

    def output(self, name: str) -> TensorSpec | None:
        """Return the output of that name."""
        return next((spec for spec in self.outputs if spec.name == name), None)


def element_count(shape: Iterable[int]) -> int:
    """Return the product of the extents, exact however large (no int64 to overflow)."""
    return math.prod(shape)


def from_raw(datatype: Datatype, shape: Shape, raw: bytes) -> Array:
    """Return the tensor whose little-endian row-major contents are raw.

    The array is a read-only view on raw where the type allows it (all but BOOL and BYTES).
    Raises MalformedContents if raw does not hold exactly the elements of shape.
    """
    if datatype is BYTES:
        return split_bytes(raw, element_count(shape)).reshape(shape)
    expected = element_count(shape) * datatype.itemsize
    if len(raw) != expected:
        raise MalformedContents(f"Expected {expected}, got {len(raw)}")
    if datatype is BOOL:  # any non-zero byte is true; the runtime must see 0 or 1 only
        truths: Array = np.frombuffer(raw, np.uint8) != 0
        return truths.reshape(shape)
    return np.frombuffer(raw, datatype.numpy).reshape(shape)


def to_raw(datatype: Datatype, array: Array) -> bytes:
    """Return the little-endian row-major contents of a tensor.

    array: of datatype.numpy; for BYTES an object array of bytes or str (sent as UTF-8).
    """
    if datatype is BYTES:
        return join_bytes(array.reshape(-1).tolist())
    return array.tobytes()


def split_bytes(raw: bytes, count: int) -> Array:
    """Return the count elements of a raw BYTES tensor as a flat object array of bytes.

    Raises MalformedContents if a length passes the end, or if there are more or fewer elements.
    """
    even = _split_evenly(raw, count)
    if even is not None:
        return even
    elements = np.empty(min(count, len(raw) // _LENGTH.size), dtype=object)
    unpack, at, end, found = _LENGTH.unpack_from, 0, len(raw), 0
    while at < end:
        if at + 4 > end:
            raise MalformedContents(
                f"incomplete string length indicator: {end - at} of 4 bytes after element {found}",
            )
        start = at + 4
        at = start + unpack(raw, at)[0]
        if at > end:
            raise MalformedContents(
                f"malformed BYTES element {found}: length {at - start} passes the end, "
                f"{end - start} bytes are left",
            )
        if found < count:
            elements[found] = raw[start:at]
        found += 1
    if found != count:
        raise WrongElementCount(count, found)
    return elements


class WrongElementCount(MalformedContents):
    """A BYTES tensor with more or fewer elements than its shape says."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"expected {expected} string elements, got {got}")
        self.expected = expected
        self.got = got


def join_bytes(elements: Sequence[bytes | str]) -> bytes:
    """Return the raw form of a BYTES tensor: 4-byte little-endian length and bytes of each."""
    if len(elements) <= _PIECE:
        return _join_piece(elements)
    starts = range(0, len(elements), _PIECE)
    return b"".join([_join_piece(elements[start : start + _PIECE]) for start in starts])


_PIECE: Final = 1 << 14  # elements joined at once: what stands beside them stays small
_SHORT: Final = tuple(_LENGTH.pack(length) for length in range(256))  # so that none is made anew


def _join_piece(elements: Sequence[bytes | str]) -> bytes:
    parts: list[bytes] = []
    for element in elements:
        if type(element) is not bytes:
            element = element.encode() if isinstance(element, str) else bytes(element)  # noqa: PLW2901
        length = len(element)
        parts.append(_SHORT[length] if length < 256 else _LENGTH.pack(length))
        parts.append(element)
    return b"".join(parts)


def _split_evenly(raw: bytes, count: int) -> Array | None:
    """Return the elements if all are equally long, which is quick to see; else None."""
    if count < 2 or len(raw) % count:
        return None
    step = len(raw) // count
    length = step - _LENGTH.size
    if length < 0:
        return None
    lengths = np.frombuffer(raw, np.uint8).reshape(count, step)[:, : _LENGTH.size]
    if not (lengths == np.frombuffer(_LENGTH.pack(length), np.uint8)).all():
        return None
    elements = np.empty(count, dtype=object)
    elements[:] = [raw[at : at + length] for at in range(_LENGTH.size, len(raw) + 1, step)]
    return elements
