"""A message into a ModelInferRequest, tensors into a ModelInferResponse.

The part of an answer that is the
same for a shape is encoded once; an answer is that part, the id and the contents, joined.
"""

from typing import Final

from google.protobuf.message import DecodeError

from service.errors import InvalidRequest
from service.pb.grpc_service_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)
from service.rpc.wire import check_part_counts, length_delimited, varint
from service.tensors import Datatype, Shape, Signature, Tensors, to_raw

MAX_ID_BYTES: Final = 1024
_MAX_REPLY_BYTES: Final = (1 << 31) - 1  # a protobuf message cannot be larger
_MAX_FIXED: Final = 512  # shapes whose fixed part is kept, per model version


def _stream_tail(*, final: bool) -> bytes:
    parameters = {"triton_final_response": InferParameter(bool_param=final)}
    return ModelInferResponse(parameters=parameters).SerializeToString()


STREAM_TAIL: Final = _stream_tail(final=True)  # of the last response of a request on a stream
_MORE_TAIL: Final = _stream_tail(final=False)  # of those before it


def parse_request(message: bytes) -> ModelInferRequest:
    """Return the request. Raises InvalidRequest if message is none, or has too many parts."""
    check_part_counts(message)
    try:
        request = ModelInferRequest.FromString(message)
    except DecodeError:
        raise InvalidRequest("malformed request: not a ModelInferRequest message") from None
    if len(request.id) > MAX_ID_BYTES:
        raise InvalidRequest(
            f"the request id has {len(request.id)} characters, at most {MAX_ID_BYTES} are taken"
        )
    return request


class ReplyEncoder:
    """Encodes the answers of one model version."""

    def __init__(self, name: str, version: str, signature: Signature) -> None:
        self._name = name
        self._version = version
        self._datatypes = {spec.name: spec.datatype for spec in signature.outputs}
        self._fixed: dict[tuple[tuple[str, Shape], ...], bytes] = {}
        self._identity = ModelInferResponse(
            model_name=name, model_version=version
        ).SerializeToString()

    def unary(self, request_id: str, outputs: Tensors) -> bytes:
        """Return a ModelInferResponse. outputs: in the order of the answer."""
        return b"".join(self._parts(request_id, outputs))

    def stream(self, request_id: str, outputs: Tensors, *, final: bool = True) -> bytes:
        """Return a ModelStreamInferResponse. final: it is the last of its request."""
        parts = [*self._parts(request_id, outputs), STREAM_TAIL if final else _MORE_TAIL]
        size = sum([len(part) for part in parts])
        return b"".join((b"\x12", varint(size), *parts))

    def stream_end(self, request_id: str) -> bytes:
        """Return a ModelStreamInferResponse without outputs that ends the responses before it."""
        return length_delimited(2, b"".join((self._identity, id_field(request_id), STREAM_TAIL)))

    def stream_error(self, request_id: str, message: str) -> bytes:
        """Return a ModelStreamInferResponse for a request that failed in execution."""
        body = b"".join((self._identity, id_field(request_id), STREAM_TAIL))
        return stream_refusal_of(message) + length_delimited(2, body)

    def fixed(self, key: tuple[tuple[str, Shape], ...]) -> bytes:
        """Return all but the id and the contents of an answer with these outputs."""
        fixed = self._fixed.get(key)
        return self._remember(key) if fixed is None else fixed

    def datatype(self, output: str) -> Datatype:
        """Return the datatype of an output."""
        return self._datatypes[output]

    def check_size(self, size: int) -> None:
        """Raise InvalidRequest if an answer is larger than a message can be."""
        if size > _MAX_REPLY_BYTES - 4096:
            raise InvalidRequest(
                f"Response has byte size {size} which exceeds gRPC's byte size limit "
                f"{_MAX_REPLY_BYTES}"
            )

    def _parts(self, request_id: str, outputs: Tensors) -> list[bytes]:
        fixed = self.fixed(tuple([(name, array.shape) for name, array in outputs.items()]))
        parts = [fixed]
        if request_id:
            parts.append(id_field(request_id))
        size = len(fixed)
        for name, array in outputs.items():
            raw = to_raw(self._datatypes[name], array)
            size += len(raw)
            parts += raw_field(raw)
        self.check_size(size)
        return parts

    def _remember(self, key: tuple[tuple[str, Shape], ...]) -> bytes:
        response = ModelInferResponse(model_name=self._name, model_version=self._version)
        for name, shape in key:
            response.outputs.add(name=name, datatype=self._datatypes[name].wire, shape=shape)
        fixed = response.SerializeToString()
        if len(self._fixed) >= _MAX_FIXED:
            self._fixed.clear()
        self._fixed[key] = fixed
        return fixed


def stream_refusal(request_id: str, message: str) -> bytes:
    """Return a ModelStreamInferResponse for a request that was refused before scheduling."""
    return stream_refusal_of(message) + length_delimited(2, id_field(request_id))


def stream_refusal_of(message: str) -> bytes:
    """Return the error_message field; never empty, for an empty one means success."""
    return length_delimited(1, (message or "unknown error").encode(errors="replace"))


def raw_field(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a field of raw_output_contents, in parts."""
    return b"\x32", varint(len(raw)), raw


def id_field(request_id: str) -> bytes:
    """Return the id of an answer as a field; nothing for none."""
    return length_delimited(3, request_id.encode()) if request_id else b""
