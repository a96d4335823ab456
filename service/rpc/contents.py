"""The contents of one input, raw, typed or shared, into its tensor. The texts are Triton's."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.errors import InvalidRequest, shown
from service.pb.grpc_service_pb2 import InferTensorContents
from service.rpc.regions import Window
from service.rpc.sources import Input, Source
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


def to_tensor(model: str, spec: TensorSpec, shape: Shape, tensor: Input, source: Source) -> Array:
    """Return an input from its contents, wherever they are.

    Raw contents become a read-only view, those in shared memory are copied. Raises RequestError.
    """
    if isinstance(source, Window):
        return _shared_tensor(model, spec, shape, source)
    if source is None:
        return _typed_tensor(model, spec, shape, tensor)
    return _raw_tensor(model, spec, shape, source)


def _shared_tensor(model: str, spec: TensorSpec, shape: Shape, window: Window) -> Array:
    expected = element_count(shape) * spec.datatype.itemsize
    if spec.datatype is not BYTES and window.size != expected:  # before it is copied for nothing
        raise InvalidRequest(
            f"input byte size mismatch for input '{shown(spec.name)}' for model '{model}'. "
            f"Expected {expected}, got {window.size}"
        )
    return _raw_tensor(model, spec, shape, window.read())


def _raw_tensor(model: str, spec: TensorSpec, shape: Shape, raw: bytes) -> Array:
    try:
        return from_raw(spec.datatype, shape, raw)
    except WrongElementCount as error:
        raise _wrong_elements(model, spec, error) from None
    except MalformedContents as error:
        where = f"for input '{shown(spec.name)}' for model '{model}'"
        if spec.datatype is BYTES:
            raise InvalidRequest(f"{error} {where}") from None
        raise InvalidRequest(f"input byte size mismatch {where}. {error}") from None


def _typed_tensor(model: str, spec: TensorSpec, shape: Shape, tensor: Input) -> Array:
    name, datatype = shown(spec.name), spec.datatype
    count = element_count(shape)
    if not tensor.HasField("contents"):  # it has no elements
        return np.empty(shape, datatype.numpy)
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
