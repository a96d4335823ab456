"""Messages that have any number of answers, at any time, on every transport."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from service.transport.seam import Call, Code, Kind, Limits
from tests.integration.transport.conftest import Run
from tests.support.engine import ECHO_STREAM, HOLD_STREAM, Engine
from tests.support.stub import Outgoing, stream
from tests.support.waiting import WAIT_S, eventually

_BLOCK = bytes(64 << 10)
_BOUND = 64 << 20  # bytes; no window of ours, of grpcio's or of the kernel's comes near it


def opened(engine: Engine, channel: grpc.Channel, count: int) -> tuple[Call, Any, Outgoing]:
    """Send so many messages on a stream and wait until the engine has them."""
    outgoing = Outgoing()
    before = len(engine.seen(Kind.MESSAGE, HOLD_STREAM))
    replies = stream(channel, HOLD_STREAM)(iter(outgoing), timeout=WAIT_S)
    outgoing.send(*[b"?"] * count)
    events = engine.wait_for(Kind.MESSAGE, HOLD_STREAM, count=before + count)
    return events[-1].call, replies, outgoing


def half_closed(engine: Engine, outgoing: Outgoing) -> None:
    """Send no more, and wait until the engine knows."""
    outgoing.half_close()
    engine.wait_for(Kind.HALF_CLOSED, HOLD_STREAM)


@contextmanager
def unread(engine: Engine) -> Iterator[tuple[Call, Any]]:
    """Send one message on a stream whose answers nobody reads; give the call and its replies."""
    with grpc.insecure_channel(
        engine.address, [("grpc.http2.lookahead_bytes", 64 << 10), ("grpc.http2.bdp_probe", 0)]
    ) as channel:
        call, replies, outgoing = opened(engine, channel, 1)
        call.detach(0)
        try:
            yield call, replies
        finally:
            replies.cancel()
            outgoing.half_close()


def fill(call: Call) -> int:
    """Send until there is no room, and return how often."""
    sent = 1
    while call.send(_BLOCK):
        sent += 1
        assert sent * len(_BLOCK) < _BOUND, "an unread stream took everything"
    return sent


def test_a_detached_message_holds_nobody_back(engine: Engine, channel: grpc.Channel) -> None:
    """Answers behind it leave before it has one, and it has as many as it likes."""
    call, replies, outgoing = opened(engine, channel, 3)
    call.detach(1)
    call.answer(2, b"c")
    call.answer(0, b"a")
    assert [next(replies), next(replies)] == [b"a", b"c"]
    for part in (b"b1", b"b2"):
        call.send(part)
        assert next(replies) == part
    half_closed(engine, outgoing)
    call.finish_answered(Code.OK)
    call.send(b"b3", settles=1)
    assert list(replies) == [b"b3"]
    assert replies.code() is grpc.StatusCode.OK


def test_a_detached_message_is_not_held_back(engine: Engine, channel: grpc.Channel) -> None:
    """Its answers leave at once, though messages before it have none."""
    call, replies, _ = opened(engine, channel, 2)
    call.detach(1)
    call.send(b"b")
    assert next(replies) == b"b"
    call.answer(0, b"a")
    assert next(replies) == b"a"
    call.finish(Code.OK)


def test_detaching_lets_early_answers_out(engine: Engine, channel: grpc.Channel) -> None:
    """An answer that waits for a message leaves when this one is detached."""
    call, replies, _ = opened(engine, channel, 4)
    for ticket in (1, 2, 3):
        call.answer(ticket, b"%d" % ticket)
    call.detach(0)
    assert [next(replies) for _ in range(3)] == [b"1", b"2", b"3"]
    call.finish(Code.OK)


def test_a_detached_message_may_have_no_answer(engine: Engine, channel: grpc.Channel) -> None:
    """Settling it is enough for the stream to end."""
    call, replies, outgoing = opened(engine, channel, 1)
    call.detach(0)
    half_closed(engine, outgoing)
    call.finish_answered(Code.OK)
    call.settle(1)
    assert list(replies) == []
    assert replies.code() is grpc.StatusCode.OK


def test_finish_answered_waits_for_every_detached_message(
    engine: Engine, channel: grpc.Channel
) -> None:
    """The end comes behind the last answer of the last one."""
    call, replies, outgoing = opened(engine, channel, 60)
    for ticket in range(0, 60, 2):
        call.detach(ticket)
    half_closed(engine, outgoing)
    call.finish_answered(Code.OK)
    for ticket in range(1, 60, 2):
        call.answer(ticket, b"ordered")
    for _ in range(0, 60, 2):
        call.send(b"part")
        call.send(b"last", settles=1)
    assert sorted(replies) == [b"last"] * 30 + [b"ordered"] * 30 + [b"part"] * 30


def test_only_an_open_message_is_detached(engine: Engine, channel: grpc.Channel) -> None:
    """What is answered stays so, and what is detached is not answered by ticket."""
    call, replies, outgoing = opened(engine, channel, 3)
    call.answer(0, b"a")
    call.answer(2, b"c")
    for ticket in (0, 2, 1, 1, 99):
        call.detach(ticket)
    call.answer(1, b"not by ticket")
    half_closed(engine, outgoing)
    call.finish_answered(Code.OK)
    call.send(b"b", settles=1)
    assert list(replies) == [b"a", b"c", b"b"]


def test_a_message_is_detached_once(engine: Engine, channel: grpc.Channel) -> None:
    """Also ahead of its turn: the end waits for one of its last answers, not for two."""
    call, replies, outgoing = opened(engine, channel, 3)
    call.detach(2)
    call.detach(2)
    call.answer(2, b"not by ticket")
    call.answer(0, b"a")
    call.answer(1, b"b")
    half_closed(engine, outgoing)
    call.finish_answered(Code.OK)
    call.send(b"c", settles=1)
    assert list(replies) == [b"a", b"b", b"c"]


def test_a_detached_message_counts_until_it_is_settled(run: Run) -> None:
    """The window stays taken through all of its answers but the last."""
    engine = run(limits=Limits(stream_window=2))
    with grpc.insecure_channel(engine.address) as channel:
        outgoing = Outgoing()
        replies = stream(channel, HOLD_STREAM)(iter(outgoing), timeout=WAIT_S)
        outgoing.send(*(b"%d" % index for index in range(3)))
        call = engine.wait_for(Kind.MESSAGE, HOLD_STREAM, count=2)[0].call
        call.detach(0)
        for _ in range(3):
            call.send(b"part")
            assert next(replies) == b"part"
        echoes = stream(channel, ECHO_STREAM)(iter([b"x"] * 20), timeout=WAIT_S)
        assert len(list(echoes)) == 20  # whatever was on its way has arrived
        assert len(engine.seen(Kind.MESSAGE, HOLD_STREAM)) == 2
        call.send(b"last", settles=1)
        engine.wait_for(Kind.MESSAGE, HOLD_STREAM, count=3)
        call.finish(Code.OK)


def test_a_producer_is_told_when_there_is_room_again(engine: Engine) -> None:
    """Without a reader `send` says stop after a bounded number, and WRITABLE says go on."""
    with unread(engine) as (call, replies):
        sent = fill(call)
        assert not engine.seen(Kind.WRITABLE)
        for _ in range(sent):
            assert next(replies) == _BLOCK
        engine.wait_for(Kind.WRITABLE)
        call.finish_answered(Code.OK)
        assert call.send(b"last", settles=1)
        assert list(replies)[-1] == b"last"
        assert len(engine.seen(Kind.WRITABLE)) == 1


def test_the_outgoing_window_is_what_was_asked_for(run: Run) -> None:
    """One message is let through, and no second one, where less than a message may wait."""
    engine = run(limits=Limits(outgoing_window_bytes=1000))
    with unread(engine) as (call, replies):
        assert not call.send(_BLOCK)
        assert next(replies) == _BLOCK
        engine.wait_for(Kind.WRITABLE)
        call.finish(Code.OK)


def test_room_is_told_each_time(engine: Engine) -> None:
    """A producer that goes by it alone sends everything, in order, to a reader of any pace."""
    blocks = 400
    with unread(engine) as (call, replies):

        def produce() -> None:
            told = 0
            for index in range(blocks):
                if not call.send(b"%05d" % index + _BLOCK):
                    told += 1
                    engine.wait_for(Kind.WRITABLE, count=told)
            call.send(b"end", settles=1)
            call.finish_answered(Code.OK)

        producer = threading.Thread(target=produce, name="producer")
        producer.start()
        heads = [reply[:5] for reply in replies]
        producer.join(WAIT_S)
        assert heads == [*(b"%05d" % index for index in range(blocks)), b"end"]


def test_a_producer_that_waits_is_told_that_the_caller_has_left(engine: Engine) -> None:
    """Instead of WRITABLE there is CANCELLED, behind which nothing follows; `send` is harmless."""
    with unread(engine) as (call, replies):
        fill(call)
        replies.cancel()
        engine.wait_for(Kind.CANCELLED)
        assert call.send(_BLOCK)
        call.settle(1)
        call.finish_answered(Code.OK)
        assert engine.of(call)[-1] is Kind.CANCELLED
        counters = engine.transport.counters
        eventually(lambda: counters().get("calls", 0) == 0, "the call is gone")
        assert counters().get("unsent_bytes", 0) == 0


def test_one_unread_stream_stops_no_other(engine: Engine, channel: grpc.Channel) -> None:
    """While one stream has no room, another one on another connection has."""
    with unread(engine) as (call, _):
        fill(call)
        other, replies, _ = opened(engine, channel, 1)
        other.detach(0)
        assert other.send(_BLOCK)
        assert next(replies) == _BLOCK
        other.finish(Code.OK)


def test_finish_does_not_wait_for_detached_messages(engine: Engine, channel: grpc.Channel) -> None:
    """It ends the call, and what is sent afterwards is dropped."""
    call, replies, _ = opened(engine, channel, 1)
    call.detach(0)
    call.finish(Code.INTERNAL, "at once")
    assert call.send(b"late", settles=1)
    with pytest.raises(grpc.RpcError):
        next(replies)
    assert replies.details() == "at once"
