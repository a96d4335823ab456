"""gRPC's interoperability cases with grpcio, one function a case."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from tests.support.interop import ECHO_INITIAL, ECHO_TRAILING, SERVICE, load_messages
from tests.support.stub import Outgoing
from tests.support.waiting import WAIT_S

_SIZES = ((31415, 27182), (9, 8), (2653, 1828), (58979, 45904))
_SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
_ECHOED = ((ECHO_INITIAL, "test_initial_metadata_value"), (ECHO_TRAILING, b"\n\v\n\v\n\v"))


class Cases:
    """The cases, on a connection of their own."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._message = message = load_messages()

        def typed(kind: str, method: str, request: str, response: str) -> Any:
            serialize, parse = message(request).SerializeToString, message(response).FromString
            path = method if method.startswith("/") else f"{SERVICE}/{method}"
            return getattr(channel, kind)(path, serialize, parse)

        self._empty = typed("unary_unary", "EmptyCall", "Empty", "Empty")
        self._unary = typed("unary_unary", "UnaryCall", "SimpleRequest", "SimpleResponse")
        self._input = typed(
            "stream_unary",
            "StreamingInputCall",
            "StreamingInputCallRequest",
            "StreamingInputCallResponse",
        )
        streaming = ("StreamingOutputCallRequest", "StreamingOutputCallResponse")
        self._output = typed("unary_stream", "StreamingOutputCall", *streaming)
        self._duplex = typed("stream_stream", "FullDuplexCall", *streaming)
        self._unimplemented = typed("unary_unary", "UnimplementedCall", "Empty", "Empty")
        self._unserved = typed(
            "unary_unary", "/grpc.testing.UnimplementedService/UnimplementedCall", "Empty", "Empty"
        )

    def empty_unary(self) -> None:
        """Send nothing, and be answered nothing."""
        assert self._empty(self._message("Empty")(), timeout=WAIT_S) == self._message("Empty")()

    def large_unary(self) -> None:
        """Send some hundred kilobytes both ways."""
        request = self._message("SimpleRequest")(response_size=314159, payload=self._zeros(271828))
        assert len(self._unary(request, timeout=WAIT_S).payload.body) == 314159

    def client_streaming(self) -> None:
        """Have what a stream of requests carries summed up."""
        kind = self._message("StreamingInputCallRequest")
        requests = (kind(payload=self._zeros(size)) for _, size in _SIZES)
        assert self._input(requests, timeout=WAIT_S).aggregated_payload_size == 74922

    def server_streaming(self) -> None:
        """Ask once for messages of several sizes."""
        request = self._message("StreamingOutputCallRequest")(
            response_parameters=[{"size": size} for size, _ in _SIZES]
        )
        answers = self._output(request, timeout=WAIT_S)
        assert [len(one.payload.body) for one in answers] == [size for size, _ in _SIZES]

    def ping_pong(self) -> None:
        """Send each request of a stream when the one before is answered."""
        with self._talk() as (outgoing, answers):
            for size, payload in _SIZES:
                outgoing.send(self._asking(size, payload))
                assert len(next(answers).payload.body) == size
            outgoing.half_close()
            assert list(answers) == []
            assert answers.code() is grpc.StatusCode.OK

    def empty_stream(self) -> None:
        """Close a stream without requests: it ends well, without answers."""
        answers = self._duplex(iter(()), timeout=WAIT_S)
        assert list(answers) == []
        assert answers.code() is grpc.StatusCode.OK

    def cancel_after_begin(self) -> None:
        """Cancel a stream at once."""
        outgoing = Outgoing()
        call = self._input.future(iter(outgoing), timeout=WAIT_S)
        call.cancel()
        outgoing.half_close()
        assert call.code() is grpc.StatusCode.CANCELLED

    def cancel_after_first_response(self) -> None:
        """Cancel a stream after its first answer."""
        with self._talk() as (outgoing, answers):
            outgoing.send(self._asking(*_SIZES[0]))
            next(answers)
            answers.cancel()
            assert answers.code() is grpc.StatusCode.CANCELLED

    def timeout_on_sleeping_server(self) -> None:
        """Let a stream that nobody answers end at its deadline."""
        with self._talk(timeout=0.02) as (outgoing, answers):
            outgoing.send(self._message("StreamingOutputCallRequest")(payload=self._zeros(27182)))
            assert answers.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    def status_code_and_message(self) -> None:
        """Have both kinds of call end with a status that is asked for."""
        status = {"code": 2, "message": "test status message"}
        call = self._unary.future(
            self._message("SimpleRequest")(response_status=status), timeout=WAIT_S
        )
        with self._talk() as (outgoing, answers):
            outgoing.send(self._message("StreamingOutputCallRequest")(response_status=status))
            for ended in (call, answers):
                assert ended.code() is grpc.StatusCode.UNKNOWN
                assert ended.details() == "test status message"

    def special_status_message(self) -> None:
        """Have a status message with white space and Unicode."""
        status = {"code": 2, "message": _SPECIAL}
        request = self._message("SimpleRequest")(response_status=status)
        call = self._unary.future(request, timeout=WAIT_S)
        assert (call.code(), call.details()) == (grpc.StatusCode.UNKNOWN, _SPECIAL)

    def unimplemented_method(self) -> None:
        """Call a method that nobody serves."""
        call = self._unimplemented.future(self._message("Empty")(), timeout=WAIT_S)
        assert call.code() is grpc.StatusCode.UNIMPLEMENTED

    def unimplemented_service(self) -> None:
        """Call a service that nobody serves."""
        call = self._unserved.future(self._message("Empty")(), timeout=WAIT_S)
        assert call.code() is grpc.StatusCode.UNIMPLEMENTED

    def custom_metadata(self) -> None:
        """Get metadata back, ahead of the answer and behind it."""
        request = self._message("SimpleRequest")(response_size=1)
        _, call = self._unary.with_call(request, timeout=WAIT_S, metadata=_ECHOED)
        with self._talk(metadata=_ECHOED) as (outgoing, answers):
            outgoing.send(self._asking(1, 1))
            next(answers)
            outgoing.half_close()
            assert list(answers) == []
            for ended in (call, answers):
                assert _ECHOED[0] in [(key, value) for key, value in ended.initial_metadata()]
                assert _ECHOED[1] in [(key, value) for key, value in ended.trailing_metadata()]

    @contextmanager
    def _talk(self, timeout: float = WAIT_S, **named: Any) -> Iterator[tuple[Outgoing, Any]]:
        outgoing = Outgoing()
        yield outgoing, self._duplex(iter(outgoing), timeout=timeout, **named)
        outgoing.half_close()

    def _zeros(self, size: int) -> Any:
        return self._message("Payload")(body=bytes(size))

    def _asking(self, size: int, payload: int) -> Any:
        return self._message("StreamingOutputCallRequest")(
            response_parameters=[{"size": size}], payload=self._zeros(payload)
        )


def run_case(case: str, address: str) -> None:
    """Run a case against a server; fails as tests do."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=own) as channel:
        getattr(Cases(channel), case)()
