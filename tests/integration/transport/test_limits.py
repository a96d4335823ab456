"""Windows, size limits, draining and closing, on every transport."""

import itertools
import threading
from collections.abc import Iterator

import grpc
import pytest

from service.transport.seam import Code, Event, Kind, Limits
from tests.integration.transport.conftest import Factory, Run
from tests.integration.transport.test_calls import ping
from tests.support.engine import ECHO, ECHO_STREAM, HOLD, HOLD_STREAM, METHODS, Engine
from tests.support.stub import stream, unary
from tests.support.waiting import WAIT_S, eventually

SMALL = Limits(message_bytes=1 << 20)


def test_unsettled_messages_are_bounded(run: Run) -> None:
    """The engine is handed as many messages as the window has, and one more for each settled."""
    engine = run(limits=Limits(stream_window=4))
    with grpc.insecure_channel(engine.address) as channel:
        endless = (b"%d" % index for index in itertools.count())
        replies = stream(channel, HOLD_STREAM)(endless, timeout=WAIT_S)
        (first, *_) = engine.wait_for(Kind.MESSAGE, count=4)
        ping(channel)
        assert len(engine.seen(Kind.MESSAGE)) == 4
        first.call.settle(1)
        engine.wait_for(Kind.MESSAGE, count=5)
        first.call.send(b"", settles=3)
        assert next(replies) == b""
        messages = engine.wait_for(Kind.MESSAGE, count=8)
        ping(channel)
        assert len(engine.seen(Kind.MESSAGE)) == 8
        assert [event.message for event in messages] == [b"%d" % index for index in range(8)]
        replies.cancel()


def test_unsettled_bytes_are_bounded(run: Run) -> None:
    """The window counts bytes too: a message waits while as many as it allows are unsettled."""
    engine = run(limits=Limits(stream_window=100, stream_window_bytes=1000))
    with grpc.insecure_channel(engine.address) as channel:
        sizes = [600, 300, 300, 5000, 10]
        replies = stream(channel, HOLD_STREAM)((b"x" * size for size in sizes), timeout=WAIT_S)
        engine.wait_for(Kind.MESSAGE, count=3)
        ping(channel)
        (event, _, _) = engine.seen(Kind.MESSAGE)
        event.call.settle(1)
        engine.wait_for(Kind.MESSAGE, count=4)
        event.call.settle(2)
        ping(channel)
        assert len(engine.seen(Kind.MESSAGE)) == 4
        event.call.settle(1)
        messages = engine.wait_for(Kind.MESSAGE, count=5)
        assert [len(message.message) for message in messages] == sizes
        event.call.finish(Code.OK)
        assert list(replies) == []


def test_peer_that_does_not_read_is_not_read(run: Run) -> None:
    """A peer that sends without end and reads nothing is stopped before it fills the memory."""
    engine = run(limits=Limits(stream_window=8))
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while taken < 2000:
            taken += 1
            yield b"x" * (256 << 10)

    with grpc.insecure_channel(engine.address) as channel:
        replies = stream(channel, ECHO_STREAM)(endless(), timeout=WAIT_S)
        engine.wait_for(Kind.MESSAGE, count=8)

        def has_stopped() -> bool:
            before = taken
            ping(channel, 50)
            return taken == before

        eventually(has_stopped, "the peer is not read any more")
        assert taken < 200  # 8 in the window, the rest in buffers of both sides
        replies.cancel()


def test_reading_starts_the_peer_again(run: Run) -> None:
    """A peer that begins to read gets every answer, in order."""
    engine = run(limits=Limits(stream_window=2))
    with grpc.insecure_channel(engine.address) as channel:
        messages = (b"%d" % index + b"x" * 50_000 for index in range(200))
        replies = stream(channel, ECHO_STREAM)(messages, timeout=WAIT_S)
        engine.wait_for(Kind.MESSAGE, count=2)
        ping(channel)
        received = [int(reply.rstrip(b"x")) for reply in replies]
        assert received == list(range(200))


@pytest.mark.parametrize("method", [ECHO, ECHO_STREAM])
def test_message_above_the_limit_is_refused(run: Run, method: str) -> None:
    """A message of the limit passes, one byte more is RESOURCE_EXHAUSTED, and the server lives."""
    engine = run(limits=SMALL)
    limit = SMALL.message_bytes
    with grpc.insecure_channel(engine.address) as channel:
        for size, is_taken in ((limit, True), (limit + 1, False), (10, True)):
            message = b"x" * size
            if method == ECHO:
                call = unary(channel, method).future(message, timeout=WAIT_S)
                replies = iter([call])
                reply = lambda: next(replies).result()  # noqa: B023, E731
            else:
                answers = stream(channel, method)(iter([message]), timeout=WAIT_S)
                reply = lambda: next(answers)  # noqa: B023, E731
            if is_taken:
                assert reply() == message
            else:
                with pytest.raises(grpc.RpcError) as caught:
                    reply()
                assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_drain_finishes_what_is_in_progress(engine: Engine, channel: grpc.Channel) -> None:
    """Draining refuses new calls, waits for those in progress, and says that all have ended."""
    future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.REQUEST)
    results: list[bool] = []
    draining = threading.Thread(target=lambda: results.append(engine.transport.drain(WAIT_S)))
    draining.start()
    eventually(lambda: _is_refused(engine.address), "new calls are refused")
    assert results == []
    event.call.finish(Code.OK, reply=b"answered")
    assert future.result() == b"answered"
    draining.join(WAIT_S)
    assert results == [True]


def test_drain_gives_up_at_its_timeout(engine: Engine, channel: grpc.Channel) -> None:
    """A call that does not end makes drain say so in time, and close cuts it off."""
    future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
    engine.wait_for(Kind.REQUEST)
    assert engine.transport.drain(0.05) is False
    engine.transport.close()
    assert future.exception().code() in (
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNAVAILABLE,
    )


def test_drain_of_an_idle_server_is_quick(engine: Engine, channel: grpc.Channel) -> None:
    """With nothing in progress draining is over at once, although a peer is connected."""
    ping(channel)
    assert engine.transport.drain(WAIT_S) is True


def test_close_aborts_what_is_left(engine: Engine, channel: grpc.Channel) -> None:
    """Closing ends calls in progress with an error and wakes up take for good."""
    held = unary(channel, HOLD).future(b"", timeout=WAIT_S)
    open_stream = stream(channel, HOLD_STREAM)(iter([b""]), timeout=WAIT_S)
    engine.wait_for(Kind.REQUEST)
    engine.wait_for(Kind.MESSAGE)
    engine.transport.close()
    assert engine.transport.closed
    assert isinstance(held.exception(), grpc.RpcError)
    with pytest.raises(grpc.RpcError):
        next(open_stream)
    assert isinstance(engine.transport.take(10, None), list)  # returns at once


def test_take_gives_bursts(transport_factory: Factory) -> None:
    """Take returns what is there up to max_events, oldest first, and nothing at the time-out."""
    transport = transport_factory(["127.0.0.1:0"], METHODS)
    (address,) = transport.start()
    assert transport.take(10, 0.01) == []
    with grpc.insecure_channel(address) as channel:
        replies = stream(channel, HOLD_STREAM)(iter([b"a", b"b", b"c"]), timeout=WAIT_S)
        events: list[Event] = []
        while not events or events[-1].kind is not Kind.HALF_CLOSED:
            burst = transport.take(2, WAIT_S)
            assert 1 <= len(burst) <= 2
            events += burst
        kinds = [event.kind for event in events]
        assert kinds == [Kind.OPENED, Kind.MESSAGE, Kind.MESSAGE, Kind.MESSAGE, Kind.HALF_CLOSED]
        assert [event.message for event in events[1:4]] == [b"a", b"b", b"c"]
        events[0].call.finish(Code.OK)
        # The network may be served by whoever is in `take`.
        taking = threading.Thread(target=transport.take, args=(1, WAIT_S))
        taking.start()
        assert list(replies) == []
    transport.close()
    taking.join(WAIT_S)
    assert transport.closed


def _is_refused(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        call = unary(channel, ECHO).future(b"", timeout=WAIT_S)
        error = call.exception()
        return error is not None and error.code() is grpc.StatusCode.UNAVAILABLE
