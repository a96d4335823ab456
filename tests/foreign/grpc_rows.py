"""Which rows of docs/compatibility.md a gRPC call stands for: its RPC, and what it made use of."""

from collections.abc import Iterator, Mapping
from typing import Final

from google.protobuf.message import DecodeError

from service.pb import grpc_service_pb2
from service.pb.grpc_service_pb2 import InferParameter, ModelInferRequest
from tests.support.tap_call import Call

_SERVICE: Final = "inference.GRPCInferenceService"
_DESCRIPTOR: Final = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
RPCS: Final = {
    **{f"/{_SERVICE}/{method.name}": method.name for method in _DESCRIPTOR.methods},
    "/grpc.health.v1.Health/Check": "Health/Check",
    "/grpc.health.v1.Health/Watch": "Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "Reflection v1",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "Reflection v1alpha",
}
_INFER: Final = {f"/{_SERVICE}/ModelInfer": "unary", f"/{_SERVICE}/ModelStreamInfer": "stream"}
_PARAMETERS: Final = {
    "priority": "priority",
    "timeout": "timeout in the queue",
    "triton_enable_empty_final_response": "empty final response asked for",
}
_OK: Final = 0
# How a stream ends that its client leaves: reset, CANCELLED, DEADLINE_EXCEEDED; and UNAVAILABLE
# is what grpcio tells a client that has closed the connection.
_LEFT: Final = (None, 1, 4, 14)
_SEQUENCE: Final = "sequence_id"


def is_served(call: Call) -> bool:
    """Tell whether a call was answered with OK, or given answers until its client left."""
    return call.status == _OK or (call.status in _LEFT and call.answers > 0)


def features(call: Call) -> Iterator[str]:
    """Tell what a call made use of, besides its RPC; deadlines alone, if it was not served."""
    if call.path in _INFER and "grpc-timeout" in call.headers:
        yield "deadline"
    if not is_served(call):
        return
    if call.headers.get("grpc-encoding", "identity") != "identity":
        yield f"requests in {call.headers['grpc-encoding']}"
    kind = _INFER.get(call.path)
    if kind is None:
        return
    if call.hold is not None and call.hold.came >= call.hold.requests:
        yield f"{call.hold.requests} requests sent before the first answer"
    if call.answers > call.sent:
        yield "several answers to a request (decoupled)"
    for message in call.requests:
        try:
            request = ModelInferRequest.FromString(message)
        except DecodeError:
            continue
        yield from _of_request(request, kind)


def _of_request(request: ModelInferRequest, kind: str) -> Iterator[str]:
    for name, value in _set(request.parameters):
        if name == _SEQUENCE:
            yield f"sequences by {'text' if value.string_param else 'numbers'}, {kind}"
        elif name not in ("sequence_start", "sequence_end"):
            yield _PARAMETERS.get(name, "parameters of the caller's own")
    for tensor in request.inputs:
        if "shared_memory_region" in tensor.parameters:
            way = "shared memory"
        else:
            way = "typed" if tensor.HasField("contents") else "raw"
        yield f"{tensor.datatype} {way}, {kind}"
    for output in request.outputs:
        yield "outputs by name"
        if "classification" in output.parameters:
            yield "classification"
        if "shared_memory_region" in output.parameters:
            yield "outputs in shared memory"


def _set(parameters: Mapping[str, InferParameter]) -> Iterator[tuple[str, InferParameter]]:
    """Give the parameters that say something: ids that mean "no sequence" do not."""
    for name, value in parameters.items():
        if name == _SEQUENCE and not (value.int64_param or value.string_param):
            continue
        yield name, value
