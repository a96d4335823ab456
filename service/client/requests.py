"""Requests: arrays into bytes. Knows protobuf and numpy, no channel.

All of a request but its id, its parameters and its contents is the same for every request of one
shape: protobuf sees it once. Contents, which may be large, are copied once, into the message.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from service.client.options import Parameter
from service.client.segment import SharedArray
from service.pb import grpc_service_pb2 as pb
from service.tensors import BF16, BYTES, DATATYPES, Array, Datatype, Shape, join_bytes

Inputs: TypeAlias = Mapping[str, npt.ArrayLike | SharedArray | None]
# Name, datatype, shape and, of contents in shared memory, region, offset and bytes.
Described: TypeAlias = tuple[str, str, Shape, tuple[str, int, int] | None]

_BY_NUMPY: Final[Mapping[np.dtype[Any], Datatype]] = {
    datatype.numpy: datatype for datatype in DATATYPES if datatype not in (BF16, BYTES)
}
_BFLOAT16: Final = "bfloat16"  # of ml_dtypes, known by its name: the package is not needed here
_TEXT_KINDS: Final = "OSU"  # numpy's kinds of arrays that hold bytes or str
_MOST_SHAPES: Final = 256  # that are remembered
# Tags of ModelInferRequest's fields.
_ID: Final = b"\x1a"
_RAW: Final = b"\x3a"


class Encoded(NamedTuple):
    """A request but for its id and its parameters."""

    head: bytes
    tail: bytes
    contents: list[bytes | Array]

    def message(self, request_id: str = "", parameters: bytes = b"") -> bytes:
        """Return the message. parameters: as `encode_parameters` returns them."""
        named = request_id.encode()
        prefix = _ID + _varint(len(named)) if named else b""
        # Arrays are buffers to join: their contents are copied here and nowhere else.
        return b"".join((self.head, prefix, named, parameters, self.tail, *self.contents))  # type: ignore[arg-type]


class Encoder:
    """The requests of one client, and the shapes that it has seen."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[bytes, bytes]] = {}

    def encode(
        self,
        model: str,
        version: str,
        inputs: Inputs,
        outputs: Sequence[str] = (),
        bf16: frozenset[str] = frozenset(),
        *,
        classes: int = 0,
    ) -> Encoded:
        """Return the request for inputs; those that are None are left out.

        bf16: inputs whose arrays of uint16 are BF16. classes: of each of outputs only so many of
        the best elements; 0: all of it. Raises TypeError for an array that no
        datatype can carry, ValueError for nested sequences that are no array.
        """
        described: list[Described] = []
        contents: list[bytes | Array] = []
        for name, value in inputs.items():
            if value is None:
                continue
            if isinstance(value, SharedArray):
                described.append(_placed(name, value, bf16))
                continue
            array = value if type(value) is np.ndarray else _as_array(name, value)
            datatype, content = _contents(name, array, bf16)
            described.append((name, datatype.wire, array.shape, None))
            size = len(content) if isinstance(content, bytes) else content.nbytes
            contents += (_RAW + _varint(size), content)
        key = (model, version, *described, classes, *outputs)
        fixed = self._known.get(key)
        if fixed is None:
            fixed = _fixed_parts(model, version, described, outputs, classes)
            if len(self._known) >= _MOST_SHAPES:
                self._known.clear()
            self._known[key] = fixed
        return Encoded(*fixed, contents)


def holds_uint16(inputs: Inputs) -> bool:
    """Tell whether an input is of uint16, which may stand for UINT16 or for BF16."""
    return any(getattr(value, "dtype", None) == np.uint16 for value in inputs.values())


def encode_parameters(parameters: Mapping[str, Parameter]) -> bytes:
    """Return the parameters of a request as its bytes. Raises TypeError for other values."""
    message = pb.ModelInferRequest()
    for key, value in parameters.items():
        entry = message.parameters[key]
        if isinstance(value, bool | np.bool_):
            entry.bool_param = bool(value)
        elif isinstance(value, int | np.integer):
            entry.int64_param = int(value)
        elif isinstance(value, float | np.floating):
            entry.double_param = float(value)
        elif isinstance(value, str):
            entry.string_param = value
        else:
            raise TypeError(
                f"parameter '{key}' is of type {type(value).__name__}, expected bool, int, float "
                "or str"
            )
    return message.SerializeToString(deterministic=True)


def _as_array(name: str, value: npt.ArrayLike) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"input '{name}' is no array: {error}") from None


def _placed(name: str, shared: SharedArray, bf16: frozenset[str]) -> Described:
    datatype, _contents_in_place = _contents(name, shared.array, bf16)
    place = (shared.region, shared.offset, shared.array.nbytes)
    return name, datatype.wire, shared.array.shape, place


def _contents(name: str, array: Array, bf16: frozenset[str]) -> tuple[Datatype, bytes | Array]:
    datatype = _BY_NUMPY.get(array.dtype)
    if datatype is None:
        if array.dtype.kind in _TEXT_KINDS:
            return BYTES, _texts(name, array)
        if array.dtype.name == _BFLOAT16:
            datatype, array = BF16, array.view(np.uint16)
        else:
            datatype = _BY_NUMPY.get(array.dtype.newbyteorder("<"))
            if datatype is None:
                raise TypeError(
                    f"input '{name}' is of type {array.dtype}, which no datatype carries"
                )
            array = array.astype(datatype.numpy)
    elif name in bf16 and array.dtype == np.uint16:
        datatype = BF16
    return datatype, array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _texts(name: str, array: Array) -> bytes:
    elements = array.reshape(-1).tolist()
    for element in elements:
        if not isinstance(element, bytes | str | bytearray | memoryview):
            raise TypeError(
                f"input '{name}' holds a {type(element).__name__}, expected bytes or str; numbers "
                "need an array of a number's type"
            )
    return join_bytes(elements)


def _fixed_parts(
    model: str,
    version: str,
    inputs: Sequence[Described],
    outputs: Sequence[str],
    classes: int,
) -> tuple[bytes, bytes]:
    head = pb.ModelInferRequest(model_name=model, model_version=version)
    tail = pb.ModelInferRequest()
    for name, datatype, shape, place in inputs:
        tensor = tail.inputs.add(name=name, datatype=datatype, shape=shape)
        if place is not None:
            region, offset, size = place
            tensor.parameters["shared_memory_region"].string_param = region
            tensor.parameters["shared_memory_byte_size"].int64_param = size
            if offset:
                tensor.parameters["shared_memory_offset"].int64_param = offset
    for name in outputs:
        output = tail.outputs.add(name=name)
        if classes:
            output.parameters["classification"].int64_param = classes
    # A map's order is that of a process: the server recognises requests by their bytes.
    return head.SerializeToString(), tail.SerializeToString(deterministic=True)


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
