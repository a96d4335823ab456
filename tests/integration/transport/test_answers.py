"""Answers to the messages of a stream by ticket, on every transport."""

import random
from typing import Any

import grpc
import pytest

from service.transport.seam import Call, Code, Kind, Limits
from tests.integration.transport.conftest import Run
from tests.support.engine import ECHO_STREAM, HOLD_STREAM, Engine
from tests.support.stub import Outgoing, stream
from tests.support.waiting import WAIT_S, eventually

COUNT = 30


def opened(
    engine: Engine, channel: grpc.Channel, count: int, *, closes: bool = True
) -> tuple[Call, Any, Outgoing]:
    """Send so many messages on a stream and wait until the engine has them."""
    outgoing = Outgoing()
    replies = stream(channel, HOLD_STREAM)(iter(outgoing), timeout=WAIT_S)
    outgoing.send(*(b"%d" % index for index in range(count)))
    events = engine.wait_for(Kind.MESSAGE, count=count)
    assert [(event.ticket, event.message) for event in events] == [
        (index, b"%d" % index) for index in range(count)
    ]
    if closes:
        outgoing.half_close()
        engine.wait_for(Kind.HALF_CLOSED)
    return events[0].call, replies, outgoing


@pytest.mark.parametrize("seed", range(3))
def test_answers_leave_in_the_order_of_messages(
    engine: Engine, channel: grpc.Channel, seed: int
) -> None:
    """Whatever the order in which messages are answered, the peer reads it in theirs."""
    call, replies, _ = opened(engine, channel, COUNT)
    order = list(range(COUNT))
    random.Random(seed).shuffle(order)
    call.finish_answered(Code.OK)
    for ticket in order:
        assert call.answer(ticket, b"answer %d" % ticket)
    assert list(replies) == [b"answer %d" % index for index in range(COUNT)]
    assert replies.code() is grpc.StatusCode.OK


def test_an_early_answer_waits(engine: Engine, channel: grpc.Channel) -> None:
    """An answer is not sent before the one in front of it, and then it is."""
    call, replies, _ = opened(engine, channel, 3)
    call.answer(1, b"b")
    call.answer(0, b"a")
    assert [next(replies), next(replies)] == [b"a", b"b"]
    call.answer(2, b"c")
    assert next(replies) == b"c"
    call.finish(Code.OK)
    assert list(replies) == []


def test_the_first_answer_counts(engine: Engine, channel: grpc.Channel) -> None:
    """A second answer to a message has no effect, whether the first was sent or waits."""
    call, replies, _ = opened(engine, channel, 3)
    call.answer(1, b"b")
    call.answer(1, b"not this")
    call.answer(0, b"a")
    call.answer(0, b"nor this")
    call.answer(1, b"nor that")
    call.answer(2, b"c")
    call.finish_answered(Code.OK)
    assert list(replies) == [b"a", b"b", b"c"]


def test_tickets_that_were_not_given_have_no_effect(engine: Engine, channel: grpc.Channel) -> None:
    """An answer to a message that has not come is not kept for the one that comes."""
    call, replies, outgoing = opened(engine, channel, 1, closes=False)
    call.answer(1, b"too early")
    call.answer(1 << 40, b"never")
    outgoing.send(b"1")
    engine.wait_for(Kind.MESSAGE, count=2)
    outgoing.half_close()
    call.answer(0, b"a")
    call.answer(1, b"b")
    engine.wait_for(Kind.HALF_CLOSED)
    call.finish_answered(Code.OK)
    assert list(replies) == [b"a", b"b"]


def test_each_answer_settles_one_message(run: Run) -> None:
    """An answer that was sent lets one further message in; one that waits lets none."""
    engine = run(limits=Limits(stream_window=4))
    with grpc.insecure_channel(engine.address) as channel:
        outgoing = Outgoing()
        replies = stream(channel, HOLD_STREAM)(iter(outgoing), timeout=WAIT_S)
        outgoing.send(*(b"%d" % index for index in range(10)))
        call = engine.wait_for(Kind.MESSAGE, count=4)[0].call
        for ticket in (3, 2, 1):
            call.answer(ticket, b"%d" % ticket)
        _go_back_and_forth(channel)
        assert len(engine.seen(Kind.MESSAGE, HOLD_STREAM)) == 4
        call.answer(0, b"0")
        call.answer(0, b"again")
        engine.wait_for(Kind.MESSAGE, HOLD_STREAM, count=8)
        _go_back_and_forth(channel)
        assert len(engine.seen(Kind.MESSAGE, HOLD_STREAM)) == 8
        for ticket in range(4, 8):
            call.answer(ticket, b"%d" % ticket)
        engine.wait_for(Kind.MESSAGE, HOLD_STREAM, count=10)
        outgoing.half_close()
        call.answer(8, b"8")
        call.answer(9, b"9")
        engine.wait_for(Kind.HALF_CLOSED, HOLD_STREAM)
        call.finish_answered(Code.OK)
        assert list(replies) == [b"%d" % index for index in range(10)]


def test_finish_answered_waits_for_open_answers(engine: Engine, channel: grpc.Channel) -> None:
    """The end comes behind the last answer, with the code and text of the last word."""
    call, replies, outgoing = opened(engine, channel, 2, closes=False)
    call.finish_answered(Code.UNAVAILABLE, "the first word")
    outgoing.send(b"2")  # after it
    engine.wait_for(Kind.MESSAGE, count=3)
    call.answer(2, b"c")
    call.answer(0, b"a")
    call.finish_answered(Code.ABORTED, "the last word", trailers=(("said", "last"),))
    call.answer(1, b"b")
    assert [next(replies) for _ in range(3)] == [b"a", b"b", b"c"]
    with pytest.raises(grpc.RpcError):
        next(replies)
    assert (replies.code(), replies.details()) == (grpc.StatusCode.ABORTED, "the last word")
    assert ("said", "last") in [tuple(pair) for pair in replies.trailing_metadata() or ()]
    call.finish_answered(Code.OK)  # too late, and harmless
    outgoing.half_close()


def test_finish_answered_ends_a_stream_without_open_answers(
    engine: Engine, channel: grpc.Channel
) -> None:
    """With nothing to wait for the call ends at once."""
    call, replies, _ = opened(engine, channel, 1)
    call.answer(0, b"a")
    call.finish_answered(Code.OK)
    assert list(replies) == [b"a"]
    assert replies.code() is grpc.StatusCode.OK


def test_finish_does_not_wait(engine: Engine, channel: grpc.Channel) -> None:
    """Finish ends the call in front of answers that are open, and what comes later is dropped."""
    call, replies, _ = opened(engine, channel, 3)
    call.answer(2, b"c")
    call.finish_answered(Code.OK)
    call.finish(Code.INTERNAL, "at once")
    call.answer(0, b"a")
    call.answer(1, b"b")
    with pytest.raises(grpc.RpcError):
        next(replies)
    assert (replies.code(), replies.details()) == (grpc.StatusCode.INTERNAL, "at once")


def test_a_caller_who_leaves_takes_early_answers_along(
    engine: Engine, channel: grpc.Channel
) -> None:
    """Answers that waited for their turn are freed with the call, and later ones do nothing."""
    call, replies, _ = opened(engine, channel, 3)
    call.answer(2, b"c" * 100_000)
    call.finish_answered(Code.OK)
    replies.cancel()
    engine.wait_for(Kind.CANCELLED)
    assert call.answer(0, b"a")
    assert call.answer(1, b"b")
    call.finish_answered(Code.OK)
    assert engine.of(call)[-1] is Kind.CANCELLED
    counters = engine.transport.counters
    eventually(lambda: counters().get("calls", 0) == 0, "the call is gone")
    assert counters().get("unsent_bytes", 0) == 0


def _go_back_and_forth(channel: grpc.Channel) -> None:
    """Let whatever was on its way to the engine arrive."""
    replies = stream(channel, ECHO_STREAM)(iter([b"x"] * 20), timeout=WAIT_S)
    assert list(replies) == [b"x"] * 20
