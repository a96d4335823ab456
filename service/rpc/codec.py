"""ModelInferRequest into tensors, tensors into ModelInferResponse.

Raw contents become read-only views on the message's bytes. The part of an answer that is the
same for a shape is encoded once; an answer is that part, the id and the contents, joined.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from service.errors import InvalidRequest, RegionLimit, shown
from service.inference.validation import (
    as_text,
    check_input_names,
    check_outputs,
    check_shape,
)
from service.pb.grpc_service_pb2 import (
    InferParameter,
    InferTensorContents,
    ModelInferRequest,
    ModelInferResponse,
)
from service.rpc.regions import NO_REGIONS, Place, Regions
from service.rpc.tensor_parameters import REGION, place_of
from service.rpc.wire import check_counts, check_part_counts, length_delimited, varint
from service.tensors import (
    BOOL,
    BY_WIRE,
    BYTES,
    Array,
    Datatype,
    MalformedContents,
    Shape,
    Signature,
    Tensors,
    TensorSpec,
    WrongElementCount,
    element_count,
    from_raw,
    to_raw,
)

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


def decode_inputs(
    model: str, signature: Signature, request: ModelInferRequest, regions: Regions = NO_REGIONS
) -> Tensors:
    """Return the inputs of a request, valid against the signature.

    What is in shared memory is copied: nothing that its client changes later reaches the model.
    Raises InvalidRequest with Triton's texts, and RequestError as Regions.window does.
    """
    inputs, raw = request.inputs, request.raw_input_contents
    check_counts("inputs", inputs)
    check_input_names(model, signature, [tensor.name for tensor in inputs])
    if raw and len(raw) != len(inputs):
        _check_raw_count(model, request)
    arrays: Tensors = {}
    has_bytes = False
    shared = 0  # bytes of the inputs that are in shared memory
    contents = iter(raw)
    for tensor in inputs:
        spec = signature.input(tensor.name)
        if spec is None:
            raise InvalidRequest(f"unexpected inference input '{shown(tensor.name)}'")
        shape = tuple(tensor.shape)
        datatype = BY_WIRE.get(tensor.datatype)
        check_shape(model, spec, datatype, tensor.datatype, shape, batched=signature.batched)
        has_bytes = has_bytes or spec.datatype is BYTES
        if tensor.parameters and (place := place_of(tensor)) is not None:
            shared += place.size
            arrays[spec.name] = _from_shared(model, spec, shape, tensor, place, shared, regions)
        elif not raw:
            arrays[spec.name] = _from_contents(model, spec, shape, tensor)
        elif tensor.HasField("contents"):
            raise InvalidRequest(
                "contents field must not be specified when using raw_input_contents for "
                f"'{shown(spec.name)}' for model '{model}'"
            )
        else:
            arrays[spec.name] = _from_raw(model, spec, shape, next(contents))
    return as_text(arrays, signature) if has_bytes and not signature.takes_bytes else arrays


def wanted_outputs(model: str, signature: Signature, request: ModelInferRequest) -> tuple[str, ...]:
    """Return the names of the outputs to compute. Raises InvalidRequest."""
    if not request.outputs:
        return check_outputs(model, signature, ())
    check_counts("outputs", request.outputs)
    return check_outputs(model, signature, [output.name for output in request.outputs])


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


def _check_raw_count(model: str, request: ModelInferRequest) -> None:
    """Refuse a request whose raw contents are not one for each input that is in the message."""
    raw = request.raw_input_contents
    inputs = [tensor for tensor in request.inputs if REGION not in tensor.parameters]
    for tensor in inputs:
        if tensor.HasField("contents"):
            raise InvalidRequest(
                "contents field must not be specified when using raw_input_contents for "
                f"'{shown(tensor.name)}' for model '{model}'"
            )
    if len(raw) < len(inputs):
        name = shown(inputs[len(raw)].name)
        raise InvalidRequest(
            f"unable to find data for input tensor '{name}' for model '{model}' in request."
        )
    if len(raw) > len(inputs):
        raise InvalidRequest(
            f"expected {len(inputs)} raw_input_contents for model '{model}', one an input, got "
            f"{len(raw)}"
        )


def _from_shared(
    model: str,
    spec: TensorSpec,
    shape: Shape,
    tensor: ModelInferRequest.InferInputTensor,
    place: Place,
    shared: int,
    regions: Regions,
) -> Array:
    """Return a copy of an input in shared memory. shared: bytes with those of inputs before it."""
    where = f"for input '{shown(spec.name)}' for model '{model}'"
    if tensor.HasField("contents"):
        raise InvalidRequest(
            "unexpected 'content' provided when using shared memory for input tensor "
            f"'{shown(spec.name)}' for model '{model}'"
        )
    window = regions.window(place)
    expected = element_count(shape) * spec.datatype.itemsize
    if spec.datatype is not BYTES and window.size != expected:  # before it is copied for nothing
        raise InvalidRequest(
            f"input byte size mismatch {where}. Expected {expected}, got {window.size}"
        )
    if shared > regions.max_read_bytes:
        raise RegionLimit(
            f"inputs in shared memory of {shared} bytes, at most {regions.max_read_bytes} are read "
            f"for one request, as many as a message may have: {where}"
        )
    return _from_raw(model, spec, shape, window.read())


def _from_raw(model: str, spec: TensorSpec, shape: Shape, raw: bytes) -> Array:
    try:
        return from_raw(spec.datatype, shape, raw)
    except WrongElementCount as error:
        raise _wrong_elements(model, spec, error) from None
    except MalformedContents as error:
        where = f"for input '{shown(spec.name)}' for model '{model}'"
        if spec.datatype is BYTES:
            raise InvalidRequest(f"{error} {where}") from None
        raise InvalidRequest(f"input byte size mismatch {where}. {error}") from None


def _wrong_elements(model: str, spec: TensorSpec, error: WrongElementCount) -> InvalidRequest:
    name = shown(spec.name)
    if error.got > error.expected:
        return InvalidRequest(
            f"unexpected number of string elements {error.got} for inference input '{name}' for "
            f"model '{model}', expecting {error.expected}"
        )
    return InvalidRequest(
        f"expected {error.expected} string elements for inference input '{name}' for model "
        f"'{model}', got {error.got}"
    )


def _from_contents(
    model: str,
    spec: TensorSpec,
    shape: Shape,
    tensor: ModelInferRequest.InferInputTensor,
) -> Array:
    name, datatype = shown(spec.name), spec.datatype
    count = element_count(shape)
    if not tensor.HasField("contents"):
        if count == 0:
            return np.empty(shape, datatype.numpy)
        raise InvalidRequest(
            f"unable to find data for input tensor '{name}' for model '{model}' in request."
        )
    if datatype.contents is None:
        raise InvalidRequest(
            f"{datatype} requires raw_input_contents: input '{name}' for model '{model}'"
        )
    values = _typed_values(model, spec, datatype, tensor.contents)
    if len(values) != count:
        if datatype is BYTES:
            raise _wrong_elements(model, spec, WrongElementCount(count, len(values)))
        size = datatype.itemsize
        raise InvalidRequest(
            f"input byte size mismatch for input '{name}' for model '{model}'. "
            f"Expected {count * size}, got {len(values) * size}"
        )
    return _to_array(name, datatype, values).reshape(shape)


def _typed_values(
    model: str, spec: TensorSpec, datatype: Datatype, contents: InferTensorContents
) -> Sequence[Any]:
    filled = [field.name for field, _ in contents.ListFields()]
    name = shown(spec.name)
    if len(filled) > 1:
        raise InvalidRequest(
            f"unexpected explicit tensor data for input tensor '{name}' for model '{model}': "
            f"{' and '.join(filled)} are filled, binary data was already supplied."
        )
    if filled and filled[0] != datatype.contents:
        other = next(d.wire for d in BY_WIRE.values() if d.contents == filled[0])
        raise InvalidRequest(
            f"unexpected explicit tensor data for input tensor '{name}' for model '{model}' of "
            f"type '{other}', expected datatype '{datatype}'"
        )
    values: Sequence[Any] = getattr(contents, datatype.contents or "")
    return values


def _to_array(name: str, datatype: Datatype, values: Sequence[Any]) -> Array:
    if datatype is BYTES:
        elements = np.empty(len(values), dtype=object)
        elements[:] = values
        return elements
    if datatype is BOOL or datatype.itemsize >= 4:
        return np.fromiter(values, datatype.numpy, len(values))
    # INT8 to UINT16 travel in 32-bit fields.
    wide = np.fromiter(values, np.int64, len(values))
    limits = np.iinfo(datatype.numpy)
    if wide.size and (wide.min() < limits.min or wide.max() > limits.max):
        raise InvalidRequest(
            f"value out of range for input '{name}': {datatype} holds {limits.min} to {limits.max}"
        )
    return wide.astype(datatype.numpy)
