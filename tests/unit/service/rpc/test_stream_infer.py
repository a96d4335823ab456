"""A stream of infer requests, and how it ends."""

from types import SimpleNamespace
from typing import Any

from service.inference.request import Request
from service.rpc.stream_infer import StreamInfer
from service.transport.seam import Code


class FakeCall:
    """Notes how a stream is to end behind its last answer."""

    metadata = ()
    deadline = None

    def __init__(self) -> None:
        self.endings: list[Code] = []
        self.forgotten = 0

    def finish_answered(self, code: Code, message: str = "") -> None:
        """Note the code."""
        del message
        self.endings.append(code)

    def answer(self, ticket: int, message: bytes) -> None:
        """Take an answer."""

    def forget(self) -> None:
        """Count."""
        self.forgotten += 1


class FakeService:
    """Accepts every request and runs none."""

    def forwarded(self, call: object) -> dict[str, str]:
        """Return nothing."""
        del call
        return {}

    def submit(
        self, _message: bytes, _deadline: None, exchange: Any, *_: object, **__: object
    ) -> Request:
        """Return a request that waits for ever."""
        exchange.served = SimpleNamespace(model=SimpleNamespace(sequences=None))
        return Request({}, (), rows=1, on_end=lambda _: None)


def stream_with_a_request() -> tuple[StreamInfer, FakeCall]:
    """Return a stream with one request that is not answered, and its call."""
    call: Any = FakeCall()
    service: Any = FakeService()
    stream = StreamInfer(service, call)
    stream.message(0, b"")
    return stream, call


def test_a_half_closed_stream_ends_well_when_the_server_drains() -> None:
    """Whoever has asked all and gets every answer is not told to try again elsewhere."""
    stream, call = stream_with_a_request()
    stream.half_closed()
    stream.drain()
    assert call.endings == [Code.OK]
    stream.answer(0, b"")
    assert call.forgotten == 1


def test_an_open_stream_is_told_that_the_server_drains() -> None:
    """Its caller may want to send more, and is told where not to; once."""
    stream, call = stream_with_a_request()
    stream.drain()
    stream.drain()
    assert call.endings == [Code.UNAVAILABLE]
