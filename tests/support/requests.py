"""Infer requests as clients build them, raw and typed, and what is in the answers."""

from collections.abc import Mapping, Sequence

import numpy as np

from service.pb.grpc_service_pb2 import InferTensorContents, ModelInferRequest, ModelInferResponse
from service.tensors import BY_WIRE, BYTES, Array, Datatype, from_raw, to_raw

Named = Mapping[str, tuple[Datatype, Array]]


def raw_request(
    model: str,
    inputs: Named,
    *,
    version: str = "",
    request_id: str = "",
    outputs: Sequence[str] = (),
) -> ModelInferRequest:
    """Return a request whose contents are raw."""
    request = _request(model, inputs, version, request_id, outputs)
    for datatype, array in inputs.values():
        request.raw_input_contents.append(to_raw(datatype, array))
    return request


def typed_request(
    model: str,
    inputs: Named,
    *,
    version: str = "",
    request_id: str = "",
    outputs: Sequence[str] = (),
) -> ModelInferRequest:
    """Return a request whose contents are in the field of their datatype."""
    request = _request(model, inputs, version, request_id, outputs)
    for tensor, (datatype, array) in zip(request.inputs, inputs.values(), strict=True):
        tensor.contents.CopyFrom(typed_contents(datatype, array))
    return request


def typed_contents(datatype: Datatype, array: Array) -> InferTensorContents:
    """Return the contents of a tensor; FP16 and BF16 have none."""
    contents = InferTensorContents()
    assert datatype.contents is not None
    getattr(contents, datatype.contents).extend(array.reshape(-1).tolist())
    return contents


def one(datatype: Datatype, array: Array, name: str = "X") -> dict[str, tuple[Datatype, Array]]:
    """Return the inputs of a model with a single one."""
    return {name: (datatype, array)}


def simple_request(
    first: int = 1,
    second: int = 2,
    *,
    rows: int = 1,
    model: str = "simple",
    version: str = "",
    request_id: str = "",
) -> ModelInferRequest:
    """Return a good request to simple: first + second and first - second in every element."""
    int32 = BY_WIRE["INT32"]
    inputs = {
        "INPUT0": (int32, np.full((rows, 16), first, np.int32)),
        "INPUT1": (int32, np.full((rows, 16), second, np.int32)),
    }
    return raw_request(model, inputs, version=version, request_id=request_id)


def x(value: float) -> dict[str, Array]:
    """Return the only input of an identity model, or of one that counts steps: X FP32[1,1]."""
    return {"X": np.full((1, 1), value, np.float32)}


def answer(response: ModelInferResponse, name: str = "Y") -> Array:
    """Return one output of an answer; BYTES elements are bytes."""
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.name == name:
            return from_raw(BY_WIRE[output.datatype], tuple(output.shape), raw)
    raise AssertionError(f"no output {name} in {response}")


def same(first: Array, second: Array, datatype: Datatype) -> bool:
    """Tell whether two tensors are the same bit for bit."""
    if first.shape != second.shape:
        return False
    if datatype is BYTES:
        return bool((first == second).all())
    return first.tobytes() == second.tobytes()


def _request(
    model: str, inputs: Named, version: str, request_id: str, outputs: Sequence[str]
) -> ModelInferRequest:
    request = ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for name, (datatype, array) in inputs.items():
        request.inputs.add(name=name, datatype=datatype.wire, shape=array.shape)
    for name in outputs:
        request.outputs.add(name=name)
    return request
