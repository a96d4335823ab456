"""Metadata ahead of an answer and behind it, on every transport."""

from typing import Any

import grpc
import pytest

from service.transport.seam import Code, Kind, Metadata
from tests.support.engine import ECHO, HOLD, HOLD_STREAM, Engine
from tests.support.stub import Outgoing, stream, unary
from tests.support.waiting import WAIT_S

METADATA: Metadata = (
    ("penstock-queue-us", "12"),
    ("twice", "1"),
    ("twice", "2, with a comma"),
    ("proof-bin", b"\0\xff\n"),
    ("empty-bin", b""),
)
DETAILS: Metadata = (("grpc-status-details-bin", b"\x08\x03\x12\x03why\xff"),)


def pairs(received: object) -> list[tuple[str, str | bytes]]:
    """List metadata as grpcio gives it."""
    return [(key, value) for key, value in received or ()]  # type: ignore[attr-defined]


def within(expected: Metadata, received: object) -> bool:
    """Tell whether the received metadata has the expected, in order."""
    names = {name for name, _ in expected}
    return [pair for pair in pairs(received) if pair[0] in names] == list(expected)


def test_initial_metadata_of_a_unary_call(engine: Engine, channel: grpc.Channel) -> None:
    """Initial metadata arrives, as text and as bytes, before the call is answered."""
    method: Any = channel.unary_stream(HOLD)  # of a unary call grpcio tells only at its end
    replies = method(b"", timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.REQUEST)
    event.call.send_initial_metadata(METADATA)
    assert within(METADATA, replies.initial_metadata())
    event.call.finish(Code.OK, reply=b"x", trailers=DETAILS)
    assert list(replies) == [b"x"]
    assert within(DETAILS, replies.trailing_metadata())
    assert not within(METADATA, replies.trailing_metadata())


def test_initial_metadata_of_a_stream(engine: Engine, channel: grpc.Channel) -> None:
    """A stream has its initial metadata at once, though no answer comes for a while."""
    outgoing = Outgoing()
    replies = stream(channel, HOLD_STREAM)(iter(outgoing), timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.OPENED)
    event.call.send_initial_metadata(METADATA)
    assert within(METADATA, replies.initial_metadata())
    event.call.send(b"answer")
    assert next(replies) == b"answer"
    outgoing.half_close()
    engine.wait_for(Kind.HALF_CLOSED)
    event.call.finish(Code.OK)
    assert list(replies) == []


def test_initial_metadata_and_an_error_at_once(engine: Engine, channel: grpc.Channel) -> None:
    """A call that fails right after its initial metadata has both, and the details."""
    future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.REQUEST)
    event.call.send_initial_metadata(METADATA)
    event.call.finish(Code.ABORTED, "why", trailers=(*DETAILS, ("reason", "test")))
    assert future.code() is grpc.StatusCode.ABORTED
    assert within(METADATA, future.initial_metadata())
    assert within((*DETAILS, ("reason", "test")), future.trailing_metadata())


def test_answer_without_initial_metadata_has_none(engine: Engine, channel: grpc.Channel) -> None:
    """Nobody's metadata appears where none was sent."""
    _, call = unary(channel, ECHO).with_call(b"", timeout=WAIT_S)
    assert not {name for name, _ in pairs(call.initial_metadata())} - {"accept-encoding"}
    assert engine.seen(Kind.REQUEST)


def test_trailing_metadata(engine: Engine, channel: grpc.Channel) -> None:
    """Trailers arrive, as text and, where the key ends in -bin, as bytes."""
    future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.REQUEST)
    event.call.finish(Code.OK, reply=b"", trailers=METADATA)
    assert within(METADATA, future.trailing_metadata())


def test_trailing_metadata_of_a_stream_and_an_error(engine: Engine, channel: grpc.Channel) -> None:
    """Trailers come with errors and at the end of streams too."""
    replies = stream(channel, HOLD_STREAM)(iter([b""]), timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.HALF_CLOSED)
    event.call.finish(Code.ABORTED, "why", trailers=(*METADATA, *DETAILS))
    with pytest.raises(grpc.RpcError):
        next(replies)
    assert within((*METADATA, *DETAILS), replies.trailing_metadata())


def test_initial_metadata_is_sent_once_and_first(engine: Engine, channel: grpc.Channel) -> None:
    """Initial metadata after other initial metadata, or after a message, is an error."""
    replies = stream(channel, HOLD_STREAM)(iter([b""]), timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.HALF_CLOSED)
    event.call.send_initial_metadata((("a", "b"),))
    with pytest.raises(ValueError, match="before everything else, and once"):
        event.call.send_initial_metadata((("a", "b"),))
    event.call.finish(Code.OK)
    assert list(replies) == []
    event.call.send_initial_metadata((("a", "b"),))  # ended: nothing happens
    replies = stream(channel, HOLD_STREAM)(iter([b""]), timeout=WAIT_S)
    late = engine.wait_for(Kind.HALF_CLOSED, count=2)[1].call
    late.send(b"x")
    with pytest.raises(ValueError, match="before everything else, and once"):
        late.send_initial_metadata((("a", "b"),))
    late.finish(Code.OK)
    assert list(replies) == [b"x"]


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        (("Upper", "x"), "lower-case"),
        (("a b", "x"), "lower-case"),
        (("", "x"), "lower-case"),
        (("grpc-status", "0"), "reserved"),
        (("grpc-anything", "0"), "reserved"),
        (("content-type", "0"), "reserved"),
        (("x", b"y"), "-bin"),
        (("x-bin", "y"), "-bin"),
        (("x", "a\nb"), "printable"),
        (("x", "\u00e9"), "printable"),
    ],
)
def test_metadata_that_cannot_be_sent_is_named(
    engine: Engine, channel: grpc.Channel, entry: tuple[str, str | bytes], part: str
) -> None:
    """Metadata that gRPC cannot carry is an error that names it, and the call goes on."""
    future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.REQUEST)
    with pytest.raises(ValueError, match=part):
        event.call.send_initial_metadata((entry,))
    with pytest.raises(ValueError, match=part):
        event.call.finish(Code.OK, reply=b"", trailers=(entry,))
    event.call.finish(Code.OK, reply=b"fine")
    assert future.result() == b"fine"
