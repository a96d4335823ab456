"""The test service of gRPC's interoperability cases, on a transport of ours."""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpc_tools import protoc  # type: ignore[import-untyped]

from service.transport.seam import Arity, Call, Code, Event, Kind, Metadata, Methods, Transport

PROTO = Path(__file__).resolve().parent.parent / "foreign" / "interop" / "test.proto"
SERVICE = "/grpc.testing.TestService"
ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"
METHODS: Methods = {
    f"{SERVICE}/EmptyCall": Arity.UNARY,
    f"{SERVICE}/UnaryCall": Arity.UNARY,
    f"{SERVICE}/StreamingOutputCall": Arity.STREAM,
    f"{SERVICE}/StreamingInputCall": Arity.STREAM,
    f"{SERVICE}/FullDuplexCall": Arity.STREAM,
}
_BURST = 64
_JOIN_S = 10.0


def load_messages() -> Callable[[str], Any]:
    """Compile the proto; return a function from a message's name to its class."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "set"
        arguments = ["protoc", f"-I{PROTO.parent}", f"--descriptor_set_out={output}", str(PROTO)]
        assert protoc.main(arguments) == 0
        files = descriptor_pb2.FileDescriptorSet.FromString(output.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return lambda name: message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"grpc.testing.{name}")
    )


class InteropServer:
    """Answers the test service on a transport that it starts and closes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._message = load_messages()
        self._received: dict[Call, int] = {}  # bytes of client-streaming calls
        (self.address,) = transport.start()
        self._thread = threading.Thread(target=self._loop, name="interop", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the transport and join the thread."""
        self._transport.close()
        self._thread.join(_JOIN_S)
        assert not self._thread.is_alive()

    def counters(self) -> dict[str, int]:
        """Return the transport's counters."""
        return dict(self._transport.counters())

    def _loop(self) -> None:
        while not self._transport.closed:
            for event in self._transport.take(_BURST, None):
                self._handle(event)

    def _handle(self, event: Event) -> None:
        call, method = event.call, event.call.method.removeprefix(f"{SERVICE}/")
        if event.kind in (Kind.REQUEST, Kind.OPENED):
            _echo_initial(call)
        if event.kind is Kind.CANCELLED:
            self._received.pop(call, None)
        elif method == "EmptyCall":
            call.finish(Code.OK, reply=b"", trailers=_trailers(call))
        elif method == "UnaryCall":
            self._unary(call, event.message)
        elif event.kind is Kind.MESSAGE and method == "StreamingInputCall":
            request = self._message("StreamingInputCallRequest").FromString(event.message)
            self._received[call] = self._received.get(call, 0) + len(request.payload.body)
            call.settle(1)
        elif event.kind is Kind.MESSAGE:
            self._outputs(call, event.message)
        elif event.kind is Kind.HALF_CLOSED:
            if method == "StreamingInputCall":
                size = self._received.pop(call, 0)
                answer = self._message("StreamingInputCallResponse")(aggregated_payload_size=size)
                call.send(answer.SerializeToString())
            call.finish(Code.OK, trailers=_trailers(call))

    def _unary(self, call: Call, message: bytes) -> None:
        request = self._message("SimpleRequest").FromString(message)
        if request.HasField("response_status"):
            status = request.response_status
            call.finish(Code(status.code), status.message, trailers=_trailers(call))
            return
        payload = self._message("Payload")(body=bytes(request.response_size))
        answer = self._message("SimpleResponse")(payload=payload)
        call.finish(Code.OK, reply=answer.SerializeToString(), trailers=_trailers(call))

    def _outputs(self, call: Call, message: bytes) -> None:
        request = self._message("StreamingOutputCallRequest").FromString(message)
        for parameters in request.response_parameters:
            payload = self._message("Payload")(body=bytes(parameters.size))
            answer = self._message("StreamingOutputCallResponse")(payload=payload)
            call.send(answer.SerializeToString())
        call.settle(1)
        if request.HasField("response_status"):
            status = request.response_status
            call.finish(Code(status.code), status.message, trailers=_trailers(call))


def _echo_initial(call: Call) -> None:
    metadata = tuple(pair for pair in call.metadata if pair[0] == ECHO_INITIAL)
    if metadata:
        call.send_initial_metadata(metadata)


def _trailers(call: Call) -> Metadata:
    return tuple(pair for pair in call.metadata if pair[0] == ECHO_TRAILING)
