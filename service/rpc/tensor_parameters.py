"""The parameters of single tensors: where their contents are, and how many classes are wanted."""

from typing import Final

from service.errors import InvalidRequest, shown
from service.pb.grpc_service_pb2 import InferParameter, ModelInferRequest
from service.rpc.regions import Place

Tensor = ModelInferRequest.InferInputTensor | ModelInferRequest.InferRequestedOutputTensor
REGION: Final = "shared_memory_region"
OFFSET: Final = "shared_memory_offset"
BYTE_SIZE: Final = "shared_memory_byte_size"
CLASSIFICATION: Final = "classification"


def place_of(tensor: Tensor) -> Place | None:
    """Return where in shared memory a tensor is; None if it is in the message.

    Raises InvalidRequest if its parameters do not say that whole.
    """
    parameters = tensor.parameters
    if REGION not in parameters:
        for key in (OFFSET, BYTE_SIZE):
            if key in parameters:
                raise InvalidRequest(
                    f"'{key}' can not be specified without '{REGION}' parameter for tensor "
                    f"'{shown(tensor.name)}'",
                )
        return None
    if BYTE_SIZE not in parameters:
        raise InvalidRequest(
            f"'{BYTE_SIZE}' must be specified along with '{REGION}' parameter for tensor "
            f"'{shown(tensor.name)}'",
        )
    if parameters[REGION].WhichOneof("parameter_choice") != "string_param":
        raise _wrong_type(REGION, tensor, "string_param")
    offset = _natural(OFFSET, tensor, parameters[OFFSET]) if OFFSET in parameters else 0
    size = _natural(BYTE_SIZE, tensor, parameters[BYTE_SIZE])
    return Place(parameters[REGION].string_param, offset, size)


def classes_of(output: ModelInferRequest.InferRequestedOutputTensor) -> int:
    """Return how many classes are wanted instead of an output; 0: the output itself.

    Raises InvalidRequest if that is no number of classes.
    """
    if CLASSIFICATION not in output.parameters:
        return 0
    parameter = output.parameters[CLASSIFICATION]
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise InvalidRequest(
            f"invalid value type for '{CLASSIFICATION}' parameter, expected int64_param",
        )
    if parameter.int64_param <= 0:
        raise InvalidRequest(
            f"invalid value for '{CLASSIFICATION}' parameter of output '{shown(output.name)}', "
            f"expected value > 0, got {parameter.int64_param}",
        )
    return parameter.int64_param


def _natural(key: str, tensor: Tensor, parameter: InferParameter) -> int:
    if parameter.WhichOneof("parameter_choice") != "int64_param":
        raise _wrong_type(key, tensor, "int64_param")
    if parameter.int64_param < 0:
        raise InvalidRequest(
            f"invalid value for '{key}' parameter for tensor '{shown(tensor.name)}', expected "
            f"value >= 0, got {parameter.int64_param}",
        )
    return parameter.int64_param


def _wrong_type(key: str, tensor: Tensor, expected: str) -> InvalidRequest:
    return InvalidRequest(
        f"invalid value type for '{key}' parameter for tensor '{shown(tensor.name)}', expected "
        f"{expected}.",
    )
