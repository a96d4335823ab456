"""Arrays into requests, responses into arrays. Knows protobuf and numpy, and no channel."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from service.client.errors import MalformedAnswer
from service.pb import grpc_service_pb2 as pb
from service.tensors import (
    BF16,
    BY_WIRE,
    BYTES,
    DATATYPES,
    Array,
    Datatype,
    MalformedContents,
    Tensors,
    from_raw,
    to_raw,
)

_BY_NUMPY: Final[Mapping[np.dtype[Any], Datatype]] = {
    datatype.numpy: datatype for datatype in DATATYPES if datatype not in (BF16, BYTES)
}
_TEXT_KINDS: Final = "OSU"  # numpy's kinds of arrays that hold bytes or str


def build_request(
    model: str,
    version: str,
    inputs: Mapping[str, npt.ArrayLike],
    outputs: Sequence[str],
    is_bf16: Callable[[str], bool],
) -> pb.ModelInferRequest:
    """Return the request for inputs.

    is_bf16: tells whether the input of that name is BF16; asked only for arrays of uint16.
    Raises TypeError for an array that no datatype can carry.
    """
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    for name, value in inputs.items():
        array = np.asarray(value)
        datatype = _datatype(name, array)
        if array.dtype == np.uint16 and is_bf16(name):
            datatype = BF16
        request.inputs.add(name=name, datatype=datatype.wire, shape=array.shape)
        if datatype is not BYTES:
            array = array.astype(datatype.numpy, copy=False)  # big-endian becomes little
        request.raw_input_contents.append(to_raw(datatype, array))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def read_outputs(response: pb.ModelInferResponse) -> Tensors:
    """Return the outputs of a response by name; views on its contents where possible.

    Raises MalformedAnswer if the contents are not what the response says.
    """
    raw = response.raw_output_contents
    if len(raw) != len(response.outputs):
        raise MalformedAnswer(f"{len(response.outputs)} outputs, but {len(raw)} raw contents")
    tensors: Tensors = {}
    for output, contents in zip(response.outputs, raw, strict=True):
        datatype = BY_WIRE.get(output.datatype)
        if datatype is None:
            raise MalformedAnswer(f"output '{output.name}' is of type '{output.datatype}'")
        try:
            tensors[output.name] = from_raw(datatype, tuple(output.shape), contents)
        except MalformedContents as error:
            raise MalformedAnswer(f"output '{output.name}': {error}") from error
    return tensors


def _datatype(name: str, array: Array) -> Datatype:
    if array.dtype.kind in _TEXT_KINDS:
        return BYTES
    datatype = _BY_NUMPY.get(array.dtype.newbyteorder("<"))
    if datatype is None:
        raise TypeError(f"input '{name}' is of type {array.dtype}, which no datatype carries")
    return datatype
