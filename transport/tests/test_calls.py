"""Calls as a client of grpcio makes them."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from harness import (
    HOLD,
    HOLD_STREAM,
    PATIENCE_S,
    STREAM,
    UNARY,
    App,
    RawClient,
    dialled,
    frame,
    request_headers,
    serving,
    stream,
    unary,
)


def failure(call: grpc.Call) -> tuple[grpc.StatusCode, str]:
    """Wait for the end of a call that has no more answers; give its status and text."""
    return call.code(), call.details() or ""


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 16_384, 70_000, 3_000_000])
def test_unary(channel: grpc.Channel, size: int) -> None:
    """A unary call of any size comes back as it went."""
    message = bytes(range(256)) * (size // 256 + 1)
    echo = unary(channel, UNARY)
    assert echo(message[:size], timeout=PATIENCE_S) == message[:size]


def test_stream(channel: grpc.Channel) -> None:
    """The messages of a stream come back in order, large and empty ones among them."""
    messages = [b"x" * (n * 37 % 5000) for n in range(500)] + [b"", b"y" * 1_000_000, b"z"]
    echo = stream(channel, STREAM)
    assert list(echo(iter(messages), timeout=PATIENCE_S)) == messages


def test_empty_stream(channel: grpc.Channel) -> None:
    """A stream without messages ends well."""
    assert list(stream(channel, STREAM)(iter(()), timeout=PATIENCE_S)) == []


def test_ping_pong(channel: grpc.Channel) -> None:
    """An answer comes before the next message is sent."""
    answered = threading.Semaphore(1)

    def messages() -> Iterator[bytes]:
        for n in range(100):
            assert answered.acquire(timeout=PATIENCE_S)
            yield b"%d" % n

    received = []
    for reply in stream(channel, STREAM)(messages(), timeout=PATIENCE_S):
        received.append(reply)
        answered.release()
    assert received == [b"%d" % n for n in range(100)]


def test_many_at_once(app: App) -> None:
    """Calls of many threads over several connections get each its own answer."""

    def one(channel: grpc.Channel, n: int) -> bool:
        message = b"%d" % n * (n % 50)
        return bool(unary(channel, UNARY)(message, timeout=PATIENCE_S) == message)

    with dialled(app) as first, dialled(app) as second, ThreadPoolExecutor(16) as pool:
        channels = (first, second)
        assert all(pool.map(lambda n: one(channels[n % 2], n), range(1000)))
    assert app.server.counters()["calls_total"] == 1000


def test_metadata(app: App, channel: grpc.Channel) -> None:
    """Metadata go both ways: text, bytes, repeated names, details of a status."""
    sent = (("key", "one"), ("key", "two"), ("blob-bin", b"\x00\xff\x01"))
    call = unary(channel, HOLD).future(b"", timeout=PATIENCE_S, metadata=sent)
    served = app.expect("request").call
    assert [pair for pair in served.metadata if pair[0] in ("key", "blob-bin")] == list(sent)
    assert dict(served.metadata)["user-agent"].startswith("grpc-python/")  # type: ignore[arg-type]
    trailers = (("took", "1 ms"), ("raw-bin", b"\xfe"), ("grpc-status-details-bin", b"\x08\x05"))
    served.finish(5, "not here", trailers=trailers)
    assert failure(call) == (grpc.StatusCode.NOT_FOUND, "not here")
    assert [(key, value) for key, value in call.trailing_metadata()] == list(trailers)


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_status(app: App, channel: grpc.Channel, code: grpc.StatusCode) -> None:
    """Every status reaches the client with its text, whatever its characters."""
    text = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608 100%\t\n"
    call = unary(channel, HOLD).future(b"", timeout=PATIENCE_S)
    app.expect("request").call.finish(code.value[0], text, reply=b"done")
    if code is grpc.StatusCode.OK:
        assert call.result(PATIENCE_S) == b"done"
    else:
        assert failure(call) == (code, text)


def test_status_after_messages(app: App, channel: grpc.Channel) -> None:
    """A stream that fails gives what was sent before it failed."""
    call = stream(channel, HOLD_STREAM)(iter([b"a"]), timeout=PATIENCE_S)
    served = app.expect("opened").call
    served.send(b"one")
    served.send(b"two")
    served.finish(10, "enough")
    assert [next(call), next(call)] == [b"one", b"two"]
    with pytest.raises(grpc.RpcError):
        next(call)
    assert failure(call) == (grpc.StatusCode.ABORTED, "enough")


def test_only_the_first_finish_counts(app: App, channel: grpc.Channel) -> None:
    """A call that has been finished stays as it is."""
    call = unary(channel, HOLD).future(b"", timeout=PATIENCE_S)
    served = app.expect("request").call
    served.finish(0, reply=b"first")
    served.finish(13, "second")
    served.send(b"third")
    app.server.reply_many([(served, b"fourth")])
    assert call.result(PATIENCE_S) == b"first"
    assert call.code() is grpc.StatusCode.OK


def test_unknown_method(channel: grpc.Channel) -> None:
    """A method or service that nobody registered is UNIMPLEMENTED."""
    for path in ("/test.Echo/Nothing", "/no.Service/Unary"):
        call = unary(channel, path).future(b"x" * 100_000, timeout=PATIENCE_S)
        assert failure(call) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


def test_deadline_of_a_call(app: App, channel: grpc.Channel) -> None:
    """The application sees the deadline on the clock of time.monotonic."""
    before = time.monotonic()
    call = unary(channel, HOLD).future(b"", timeout=30)
    served = app.expect("request").call
    assert served.deadline is not None
    assert before + 29 < served.deadline < time.monotonic() + 31  # the client may round it up
    served.finish(0, reply=b"")
    assert call.result(PATIENCE_S) == b""


def test_no_deadline(app: App, channel: grpc.Channel) -> None:
    """A call without a deadline has none."""
    call = unary(channel, HOLD).future(b"")
    served = app.expect("request").call
    assert served.deadline is None
    served.finish(0, reply=b"")
    call.result(PATIENCE_S)


def test_passed_deadline(app: App, channel: grpc.Channel) -> None:
    """When the deadline passes, the client and the application are told, once."""
    call = unary(channel, HOLD).future(b"", timeout=0.5)
    served = app.expect("request").call
    assert failure(call)[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert app.expect("cancelled").call is served
    served.finish(0, reply=b"late")
    assert app.has_no_event()


def test_answer_as_the_deadline_passes(app: App, raw: RawClient) -> None:
    """An answer that was given, and is not written yet, gives way to a status, never to a reset.

    To gRPC a reset is DEADLINE_EXCEEDED or CANCELLED, by what the client's own clock says.
    """
    for _ in range(5):
        timeouts = [(b"grpc-timeout", b"%dm" % at) for at in range(100, 180)]
        headers = [request_headers(HOLD.encode(), timeout) for timeout in timeouts]
        numbers = [raw.open(each, frame(b"")) for each in headers]
        for served in [app.expect("request").call for _ in numbers]:
            while time.monotonic() < (served.deadline or 0):
                pass
            served.finish(0, reply=b"late")
        answers = [raw.answer(number) for number in numbers]
        assert {answer.reset for answer in answers} == {None}
        assert {answer.status for answer in answers} <= {0, 4}
        while not app.has_no_event():
            app.expect("cancelled")


def test_cancelled_unary(app: App, channel: grpc.Channel) -> None:
    """A client that cancels is an event of its call."""
    call = unary(channel, HOLD).future(b"")
    served = app.expect("request").call
    call.cancel()
    assert app.expect("cancelled").call is served


def test_cancelled_stream(app: App, channel: grpc.Channel) -> None:
    """A stream may be cancelled after its first answer; the channel lives."""
    never = threading.Event()

    def messages() -> Iterator[bytes]:
        yield b"a"
        never.wait(PATIENCE_S)

    call = stream(channel, HOLD_STREAM)(messages())
    served = app.expect("opened").call
    assert app.expect("message").message == b"a"
    served.send(b"b", settles=1)
    assert next(call) == b"b"
    call.cancel()
    never.set()
    assert app.expect("cancelled").call is served
    assert unary(channel, UNARY)(b"alive", timeout=PATIENCE_S) == b"alive"


def test_lost_connection(app: App) -> None:
    """A connection that is lost cancels its calls."""
    with dialled(app) as channel:
        call = unary(channel, HOLD).future(b"")
        served = app.expect("request").call
    assert call.code() is grpc.StatusCode.CANCELLED
    assert app.expect("cancelled").call is served


def test_gzip(app: App) -> None:
    """Compressed requests are understood, small, large and in a stream."""
    for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        with dialled(app) as channel:
            message = b"abc" * 100_000
            echo = unary(channel, UNARY)
            assert echo(message, compression=algorithm, timeout=PATIENCE_S) == message
            talk = stream(channel, STREAM)
            messages = [message, b"", b"x"]
            replies = talk(iter(messages), compression=algorithm, timeout=PATIENCE_S)
            assert list(replies) == messages


def test_largest_message() -> None:
    """A message of exactly the limit is served, one byte more is refused; compressed alike."""
    with serving(message_bytes=100_000) as app, dialled(app) as channel:
        echo = unary(channel, UNARY)
        for algorithm in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            fits = b"x" * 100_000
            assert echo(fits, compression=algorithm, timeout=PATIENCE_S) == fits
            call = echo.future(fits + b"x", compression=algorithm, timeout=PATIENCE_S)
            code, text = failure(call)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in text
        assert app.server.counters()["refused_message_size_total"] == 2


def test_large_answer_is_sent_as_the_client_reads(app: App) -> None:
    """An answer of many windows arrives whole."""
    with dialled(app, options=[("grpc.max_receive_message_length", -1)]) as channel:
        message = bytes(range(256)) * 80_000  # 20 MB
        assert unary(channel, UNARY)(message, timeout=PATIENCE_S) == message
    assert app.server.counters()["buffered_bytes"] == 0
