"""The contents of one input, raw, typed or shared, into its tensor. The texts are Triton's."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from service.errors import InvalidRequest, shown
from service.pb.grpc_service_pb2 import InferTensorContents, ModelInferRequest
from service.rpc.regions import Window
from service.rpc.tensor_parameters import REGION
from service.tensors import (
    BOOL,
    BY_WIRE,
    BYTES,
    Array,
    Datatype,
    MalformedContents,
    Shape,
    TensorSpec,
    WrongElementCount,
    element_count,
    from_raw,
)

Input: TypeAlias = ModelInferRequest.InferInputTensor


def check_raw_count(model: str, request: ModelInferRequest) -> None:
    """Raise InvalidRequest unless raw contents are one for each input that is in the message."""
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


def shared_tensor(
    model: str, spec: TensorSpec, shape: Shape, tensor: Input, window: Window
) -> Array:
    """Return a copy of an input in shared memory. Raises RequestError."""
    if tensor.HasField("contents"):
        raise InvalidRequest(
            "unexpected 'content' provided when using shared memory for input tensor "
            f"'{shown(spec.name)}' for model '{model}'"
        )
    expected = element_count(shape) * spec.datatype.itemsize
    if spec.datatype is not BYTES and window.size != expected:  # before it is copied for nothing
        raise InvalidRequest(
            f"input byte size mismatch for input '{shown(spec.name)}' for model '{model}'. "
            f"Expected {expected}, got {window.size}"
        )
    return raw_tensor(model, spec, shape, window.read())


def raw_tensor(model: str, spec: TensorSpec, shape: Shape, raw: bytes) -> Array:
    """Return an input from its raw contents. Raises InvalidRequest."""
    try:
        return from_raw(spec.datatype, shape, raw)
    except WrongElementCount as error:
        raise _wrong_elements(model, spec, error) from None
    except MalformedContents as error:
        where = f"for input '{shown(spec.name)}' for model '{model}'"
        if spec.datatype is BYTES:
            raise InvalidRequest(f"{error} {where}") from None
        raise InvalidRequest(f"input byte size mismatch {where}. {error}") from None


def typed_tensor(model: str, spec: TensorSpec, shape: Shape, tensor: Input) -> Array:
    """Return an input from the contents in the field of its datatype. Raises InvalidRequest."""
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
