"""Arrays into request bytes, response bytes into arrays. Knows protobuf and numpy, no channel.

All of a request but its id, its parameters and its contents is the same for every request of one
shape, and so is all of a response: protobuf sees each such part once, and contents, which may
be large, never. They are joined to the message, and cut from it, as they lie.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from service.client.errors import MalformedAnswer
from service.client.options import Parameter
from service.pb import grpc_service_pb2 as pb
from service.tensors import (
    BF16,
    BOOL,
    BY_WIRE,
    BYTES,
    DATATYPES,
    Array,
    Datatype,
    MalformedContents,
    Shape,
    Tensors,
    element_count,
    join_bytes,
    split_bytes,
)

Inputs: TypeAlias = Mapping[str, npt.ArrayLike | None]

FINAL: Final = "triton_final_response"
_BY_NUMPY: Final[Mapping[np.dtype[Any], Datatype]] = {
    datatype.numpy: datatype for datatype in DATATYPES if datatype not in (BF16, BYTES)
}
_BFLOAT16: Final = "bfloat16"  # of ml_dtypes, known by its name: the package is not needed here
_TEXT_KINDS: Final = "OSU"  # numpy's kinds of arrays that hold bytes or str
_MOST_SHAPES: Final = 256  # that are remembered, of requests and of responses each
_LONGEST_HEAD: Final = 4096  # bytes of a response without id and contents that is remembered

# Tags of ModelInferRequest and ModelInferResponse: fields of so many bytes.
_ID, _OUTPUTS, _RAW_OUTPUT = 0x1A, 0x2A, 0x32
_RAW_INPUT: Final = b"\x3a"
# Tags of ModelStreamInferResponse.
_ERROR, _RESPONSE = 0x0A, 0x12
_LENGTH_DELIMITED: Final = 2  # the lowest three bits of such a tag
K = TypeVar("K")
V = TypeVar("V")


class Encoded(NamedTuple):
    """A request but for its id and its parameters."""

    head: bytes
    tail: bytes
    contents: list[bytes | Array]

    def message(self, request_id: str = "", parameters: bytes = b"") -> bytes:
        """Return the message. parameters: as `encode_parameters` returns them."""
        named = _field(_ID, request_id.encode()) if request_id else b""
        # Arrays are buffers to join: their contents are copied here and nowhere else.
        return b"".join((self.head, named, parameters, self.tail, *self.contents))  # type: ignore[arg-type]


class Response(NamedTuple):
    """One response. The arrays own their memory."""

    request_id: str
    outputs: Tensors
    parameters: Mapping[str, Parameter]
    error: str = ""

    @property
    def is_final(self) -> bool:
        """Tell whether no more responses to the request follow."""
        return bool(self.parameters.get(FINAL, True))


@dataclass(frozen=True, slots=True)
class _Layout:
    """What a response says of its outputs, beside the contents."""

    outputs: tuple[tuple[str, Datatype, Shape], ...]
    parameters: Mapping[str, Parameter]


class Codec:
    """The wire form of one client's requests and responses, and the shapes that it has seen."""

    def __init__(self) -> None:
        self._requests: dict[tuple[Any, ...], tuple[bytes, bytes]] = {}
        self._layouts: dict[bytes, _Layout] = {}

    def encode(
        self,
        model: str,
        version: str,
        inputs: Inputs,
        outputs: Sequence[str] = (),
        bf16: frozenset[str] = frozenset(),
    ) -> Encoded:
        """Return the request for inputs; those that are None are left out.

        bf16: inputs whose arrays of uint16 are BF16. Raises TypeError for an array that no
        datatype can carry, ValueError for nested sequences that are no array.
        """
        described: list[tuple[str, str, Shape]] = []
        contents: list[bytes | Array] = []
        for name, value in inputs.items():
            if value is None:
                continue
            array = value if type(value) is np.ndarray else _as_array(name, value)
            datatype, content = _contents(name, array, bf16)
            described.append((name, datatype.wire, array.shape))
            size = len(content) if isinstance(content, bytes) else content.nbytes
            contents += (_RAW_INPUT + _varint(size), content)
        key = (model, version, *described, None, *outputs)
        fixed = self._requests.get(key)
        if fixed is None:
            fixed = _fixed_parts(model, version, described, outputs)
            _remember(self._requests, key, fixed)
        return Encoded(*fixed, contents)

    def decode(self, data: bytes) -> Response:
        """Return a ModelInferResponse. Raises MalformedAnswer for what the protocol forbids."""
        return self._decode(data, 0, len(data))

    def decode_stream(self, data: bytes) -> Response:
        """Return a ModelStreamInferResponse. Raises MalformedAnswer as `decode` does."""
        fields = _fields(data, 0, len(data))
        error, response = "", Response("", {}, {})
        if fields is None:
            raise MalformedAnswer("the server sent bytes that are no ModelStreamInferResponse")
        for tag, _at, start, stop in fields:
            if tag == _ERROR:
                error = data[start:stop].decode(errors="replace")
            elif tag == _RESPONSE:
                response = self._decode(data, start, stop)
        return response._replace(error=error) if error else response

    def _decode(self, data: bytes, start: int, stop: int) -> Response:
        fields = _fields(data, start, stop)
        if fields is None:
            raise MalformedAnswer("the server sent bytes that are no ModelInferResponse")
        request_id, is_described = "", False
        kept: list[bytes] = []
        raws: list[tuple[int, int]] = []
        for tag, at, field_start, field_stop in fields:
            if tag == _RAW_OUTPUT:
                raws.append((field_start, field_stop))
            elif tag == _ID:
                request_id = data[field_start:field_stop].decode(errors="replace")
            else:
                is_described = is_described or tag == _OUTPUTS
                kept.append(data[at:field_stop])
        head = b"".join(kept)
        if is_described and not raws:
            return _typed(request_id, head)
        layout = self._layout(head)
        return Response(request_id, _outputs(layout, data, raws), layout.parameters)

    def _layout(self, head: bytes) -> _Layout:
        known = self._layouts.get(head)
        if known is None:
            known = _layout(_parse(head))
            if len(head) <= _LONGEST_HEAD:
                _remember(self._layouts, head, known)
        return known


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
    model: str, version: str, inputs: Sequence[tuple[str, str, Shape]], outputs: Sequence[str]
) -> tuple[bytes, bytes]:
    head = pb.ModelInferRequest(model_name=model, model_version=version)
    tail = pb.ModelInferRequest()
    for name, datatype, shape in inputs:
        tail.inputs.add(name=name, datatype=datatype, shape=shape)
    for name in outputs:
        tail.outputs.add(name=name)
    return head.SerializeToString(), tail.SerializeToString()


def _parse(head: bytes) -> pb.ModelInferResponse:
    try:
        return pb.ModelInferResponse.FromString(head)
    except DecodeError as error:
        raise MalformedAnswer(f"the server sent no ModelInferResponse: {error}") from None


def _layout(message: pb.ModelInferResponse) -> _Layout:
    outputs = []
    for output in message.outputs:
        datatype = BY_WIRE.get(output.datatype)
        if datatype is None:
            raise MalformedAnswer(f"output '{output.name}' is of type '{output.datatype}'")
        outputs.append((output.name, datatype, tuple(output.shape)))
    parameters = {
        key: getattr(value, kind)
        for key, value in message.parameters.items()
        if (kind := value.WhichOneof("parameter_choice"))
    }
    return _Layout(tuple(outputs), parameters)


def _typed(request_id: str, head: bytes) -> Response:
    """Return a response with typed contents, which servers other than ours may send."""
    message = _parse(head)
    layout = _layout(message)
    tensors: Tensors = {}
    for (name, datatype, shape), output in zip(layout.outputs, message.outputs, strict=True):
        elements = getattr(output.contents, datatype.contents) if datatype.contents else ()
        if len(elements) != element_count(shape):
            raise MalformedAnswer(
                f"output '{name}': expected {element_count(shape)} elements of {datatype} in its "
                f"contents, got {len(elements)}"
            )
        flat = np.empty(len(elements), datatype.numpy)
        flat[:] = elements
        tensors[name] = flat.reshape(shape)
    return Response(request_id, tensors, layout.parameters)


def _outputs(layout: _Layout, data: bytes, raws: list[tuple[int, int]]) -> Tensors:
    if len(raws) != len(layout.outputs):
        raise MalformedAnswer(f"{len(layout.outputs)} outputs, but {len(raws)} raw contents")
    tensors: Tensors = {}
    for (name, datatype, shape), (start, stop) in zip(layout.outputs, raws, strict=True):
        try:
            tensors[name] = _array(datatype, shape, data, start, stop)
        except MalformedContents as error:
            raise MalformedAnswer(f"output '{name}': {error}") from error
    return tensors


def _array(datatype: Datatype, shape: Shape, data: bytes, start: int, stop: int) -> Array:
    """Return an array of its own memory: a view would be read-only, unaligned, and hold data."""
    count = element_count(shape)
    if datatype is BYTES:
        return split_bytes(data[start:stop], count).reshape(shape)
    if min(shape, default=0) < 0 or stop - start != count * datatype.itemsize:
        raise MalformedContents(f"Expected {count * datatype.itemsize}, got {stop - start}")
    if datatype is BOOL:
        truths: Array = np.frombuffer(data, np.uint8, count, start) != 0
        return truths.reshape(shape)
    return np.frombuffer(data, datatype.numpy, count, start).reshape(shape).copy()


def _fields(data: bytes, at: int, end: int) -> list[tuple[int, int, int, int]] | None:
    """Return tag, start, and start and stop of the contents of every field.

    None if a field is not of the kinds that we know.

    """
    fields = []
    while at < end:
        tag = data[at]
        if tag & 7 != _LENGTH_DELIMITED or tag > 0x7F:
            return None
        began = at
        at += 1
        length = shift = 0
        while True:
            if at >= end or shift > 28:
                return None
            byte = data[at]
            at += 1
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        stop = at + length
        if stop > end:
            return None
        fields.append((tag, began, at, stop))
        at = stop
    return fields


def _field(tag: int, contents: bytes) -> bytes:
    return bytes((tag,)) + _varint(len(contents)) + contents


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _remember(known: dict[K, V], key: K, value: V) -> None:
    if len(known) >= _MOST_SHAPES:
        known.clear()
    known[key] = value
