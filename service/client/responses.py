"""Responses: bytes into arrays. Knows protobuf and numpy, no channel.

All of a response but its id and its contents is the same for every response of one shape:
protobuf sees it once. Contents, which may be large, are copied once, into the arrays.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from service.client.errors import MalformedAnswer
from service.client.options import Parameter
from service.pb import grpc_service_pb2 as pb
from service.tensors import (
    BOOL,
    BY_WIRE,
    BYTES,
    Array,
    Datatype,
    MalformedContents,
    Shape,
    element_count,
    split_bytes,
)

FINAL: Final = "triton_final_response"
_MOST_LAYOUTS: Final = 256  # that are remembered
_LONGEST_HEAD: Final = 4096  # bytes of a response without id and contents that is remembered
# Tags of ModelInferResponse's fields.
_ID, _OUTPUTS, _RAW = 0x1A, 0x2A, 0x32
# Tags of ModelStreamInferResponse's.
_ERROR, _RESPONSE = 0x0A, 0x12
_LENGTH_DELIMITED: Final = 2  # the lowest three bits of such a tag
_NONE: Final[Mapping[str, Parameter]] = {}
M = TypeVar("M", bound=Message)


class Outputs(dict[str, Array]):
    """The arrays of an answer by name, and what it says beside them.

    version: of the model that answered. parameters: of the answer. request_id: as it was given.
    """

    __slots__ = ("parameters", "request_id", "version")

    def __init__(
        self, version: str = "", request_id: str = "", parameters: Mapping[str, Parameter] = _NONE
    ) -> None:
        super().__init__()
        self.version = version
        self.request_id = request_id
        self.parameters = parameters


class Response(NamedTuple):
    """One response. The arrays own their memory."""

    request_id: str
    outputs: Outputs
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
    version: str


class Decoder:
    """The responses of one client, and the layouts that it has seen."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Layout] = {}

    def decode(self, data: bytes) -> Response:
        """Return a ModelInferResponse. Raises MalformedAnswer for what the protocol forbids."""
        return self._decode(data, 0, len(data))

    def decode_stream(self, data: bytes) -> Response:
        """Return a ModelStreamInferResponse. Raises MalformedAnswer as `decode` does."""
        error, response = "", Response("", Outputs(), _NONE)
        fields = _fields(data, 0, len(data))
        if fields is None:
            data = _plain(pb.ModelStreamInferResponse, data)
            fields = _fields(data, 0, len(data)) or []
        for tag, _at, start, stop in fields:
            if tag == _ERROR:
                error = data[start:stop].decode(errors="replace")
            elif tag == _RESPONSE:
                response = self._decode(data, start, stop)
        return response._replace(error=error) if error else response

    def _decode(self, data: bytes, start: int, stop: int) -> Response:
        fields = _fields(data, start, stop)
        if fields is None:
            data = _plain(pb.ModelInferResponse, data[start:stop])
            fields = _fields(data, 0, len(data)) or []
        request_id, is_described = "", False
        kept: list[bytes] = []
        raws: list[tuple[int, int]] = []
        for tag, at, field_start, field_stop in fields:
            if tag == _RAW:
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
        outputs = _outputs(layout, request_id, data, raws)
        return Response(request_id, outputs, layout.parameters)

    def _layout(self, head: bytes) -> _Layout:
        known = self._known.get(head)
        if known is None:
            known = _layout(_parse(pb.ModelInferResponse, head))
            if len(head) <= _LONGEST_HEAD:
                if len(self._known) >= _MOST_LAYOUTS:
                    self._known.clear()
                self._known[head] = known
        return known


def _plain(kind: type[Message], data: bytes) -> bytes:
    """Return a message without what a newer protocol may have put into it."""
    message = _parse(kind, data)
    message.DiscardUnknownFields()
    return message.SerializeToString()


def _parse(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise MalformedAnswer(f"the server sent no {kind.DESCRIPTOR.name}: {error}") from None


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
    return _Layout(tuple(outputs), parameters, message.model_version)


def _typed(request_id: str, head: bytes) -> Response:
    """Return a response with typed contents, which servers other than ours may send."""
    message = _parse(pb.ModelInferResponse, head)
    layout = _layout(message)
    tensors = Outputs(layout.version, request_id, layout.parameters)
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


def _outputs(layout: _Layout, request_id: str, data: bytes, raws: list[tuple[int, int]]) -> Outputs:
    if len(raws) != len(layout.outputs):
        raise MalformedAnswer(f"{len(layout.outputs)} outputs, but {len(raws)} raw contents")
    tensors = Outputs(layout.version, request_id, layout.parameters)
    for (name, datatype, shape), (start, stop) in zip(layout.outputs, raws, strict=True):
        try:
            tensors[name] = _array(datatype, shape, data, start, stop)
        except ValueError as error:  # numpy's: more than 64 dimensions, or one too large
            raise MalformedAnswer(f"output '{name}': {error}") from error
    return tensors


def _array(datatype: Datatype, shape: Shape, data: bytes, start: int, stop: int) -> Array:
    """Return an array of its own memory: a view would be read-only, unaligned, and hold data."""
    if min(shape, default=0) < 0:
        raise MalformedContents(f"the shape is {list(shape)}")
    count = element_count(shape)
    if datatype is BYTES:
        return split_bytes(data[start:stop], count).reshape(shape)
    if stop - start != count * datatype.itemsize:
        raise MalformedContents(f"Expected {count * datatype.itemsize}, got {stop - start}")
    if datatype is BOOL:
        truths: Array = np.frombuffer(data, np.uint8, count, start) != 0
        return truths.reshape(shape)
    return np.frombuffer(data, datatype.numpy, count, start).reshape(shape).copy()


def _fields(data: bytes, at: int, end: int) -> list[tuple[int, int, int, int]] | None:
    """Return tag, start, and start and stop of the contents of every field.

    None if a field is not of the kinds that we know: protobuf may know more.

    """
    fields = []
    while at < end:
        began, start = at, at + 2
        if start > end:
            return None
        tag, length = data[began], data[began + 1]
        if tag & 7 != _LENGTH_DELIMITED or tag > 0x7F:
            return None
        if length > 0x7F:
            length, start = _long_varint(data, began + 1, end)
        at = start + length
        if at > end:
            return None
        fields.append((tag, began, start, at))
    return fields


def _long_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return a varint and where it ends; one that is cut off or too long passes any end."""
    number = 0
    for shift in range(0, 35, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    return 1, end
