"""A gRPC server whose answers the test decides, for what no real server does on demand."""

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
import numpy as np

from service.pb import grpc_service_pb2 as pb
from tests.support.waiting import WAIT_S

Infer: TypeAlias = Callable[[pb.ModelInferRequest], pb.ModelInferResponse]
Requests: TypeAlias = Iterator[pb.ModelInferRequest]
Answers: TypeAlias = Iterator[pb.ModelStreamInferResponse]
Stream: TypeAlias = Callable[[Requests], Answers]
_SERVICE = "inference.GRPCInferenceService"


class Refusal(Exception):
    """Ends the call with a status."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


@contextmanager
def serving(
    infer: Infer | None = None,
    stream: Stream | None = None,
    seen: list[dict[str, str | bytes]] | None = None,
    address: str = "127.0.0.1:0",
    **unary: Callable[[bytes], Any],
) -> Iterator[str]:
    """Run a server and yield its address.

    infer, stream: answer those calls; they may raise Refusal. unary: other methods by name, from
    the request's bytes to a message. seen: gets the metadata of every call.
    address: where it listens.
    """
    handlers: dict[str, Any] = {}
    if infer is not None:
        unary["ModelInfer"] = lambda data: infer(pb.ModelInferRequest.FromString(data))
    for name, function in unary.items():
        handlers[name] = grpc.unary_unary_rpc_method_handler(_answering(function, seen))
    if stream is not None:
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            _streaming(stream, seen),
            pb.ModelInferRequest.FromString,
            pb.ModelStreamInferResponse.SerializeToString,
        )
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        port = server.add_insecure_port(address)
        server.start()
        try:
            yield address if address.startswith("unix:") else f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait(WAIT_S)


def part(
    request_id: str, *, final: bool | None = None, value: float | None = None, error: str = ""
) -> pb.ModelStreamInferResponse:
    """Return a message of a stream, with one FP32 output Y[1] if there is a value."""
    response = pb.ModelInferResponse(id=request_id)
    if final is not None:
        response.parameters["triton_final_response"].bool_param = final
    if value is not None:
        response.outputs.add(name="Y", datatype="FP32", shape=[1])
        response.raw_output_contents.append(np.array([value], np.float32).tobytes())
    return pb.ModelStreamInferResponse(infer_response=response, error_message=error)


def _answering(function: Callable[[bytes], Any], seen: list[Any] | None) -> Any:
    def answer(data: bytes, context: grpc.ServicerContext) -> bytes:
        _note(context, seen)
        try:
            return bytes(function(data).SerializeToString())
        except Refusal as refusal:
            context.abort(refusal.code, refusal.text)

    return answer


def _streaming(stream: Stream, seen: list[Any] | None) -> Any:
    def answer(
        requests: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        _note(context, seen)
        try:
            yield from stream(requests)
        except Refusal as refusal:
            context.abort(refusal.code, refusal.text)

    return answer


def _note(context: grpc.ServicerContext, seen: list[Any] | None) -> None:
    if seen is not None:
        seen.append(dict(context.invocation_metadata()))
