"""Calls of both kinds, from opening to status, on every transport."""

import json
import threading
import time

import grpc
import pytest

from service.transport.seam import Code, Kind
from tests.support.engine import ECHO, ECHO_STREAM, HOLD, HOLD_STREAM, STATUS, Engine
from tests.support.stub import Outgoing, refusal, stream, unary
from tests.support.waiting import WAIT_S, eventually


def ping(channel: grpc.Channel, times: int = 20) -> None:
    """Go to the server and back: whatever was on its way before has arrived then."""
    for index in range(times):
        assert unary(channel, ECHO)(b"%d" % index, timeout=WAIT_S) == b"%d" % index


@pytest.mark.parametrize("size", [0, 1, 5, 70_000, 4 << 20])
def test_unary_message_comes_back(channel: grpc.Channel, size: int) -> None:
    """A unary call carries a message of any size both ways, unchanged."""
    message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert unary(channel, ECHO)(message, timeout=WAIT_S) == message


def test_large_message_comes_back(engine: Engine) -> None:
    """A message of many frames passes flow control both ways."""
    message = bytes(range(256)) * (16 << 12)  # 16 MiB
    with grpc.insecure_channel(
        engine.address, options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        assert unary(channel, ECHO)(message, timeout=WAIT_S) == message


def test_many_calls_at_once(channel: grpc.Channel) -> None:
    """A hundred calls in flight on one connection are each answered with their own reply."""
    method = unary(channel, ECHO)
    futures = [method.future(b"%d" % index, timeout=WAIT_S) for index in range(100)]
    assert [future.result() for future in futures] == [b"%d" % index for index in range(100)]


def test_stream_ping_pong(channel: grpc.Channel) -> None:
    """Each message of a stream is answered before the next is sent."""
    outgoing = Outgoing()
    replies = stream(channel, ECHO_STREAM)(iter(outgoing), timeout=WAIT_S)
    for index in range(50):
        outgoing.send(b"%d" % index)
        assert next(replies) == b"%d" % index
    outgoing.half_close()
    assert list(replies) == []
    assert replies.code() is grpc.StatusCode.OK


def test_empty_messages_of_a_stream_are_messages(channel: grpc.Channel) -> None:
    """A message without bytes is a message."""
    replies = stream(channel, ECHO_STREAM)(iter([b"", b"x", b""]), timeout=WAIT_S)
    assert list(replies) == [b"", b"x", b""]


def test_empty_stream(engine: Engine, channel: grpc.Channel) -> None:
    """A stream without messages is opened, half-closed and ended with OK."""
    replies = stream(channel, ECHO_STREAM)(iter(()), timeout=WAIT_S)
    assert list(replies) == []
    assert replies.code() is grpc.StatusCode.OK
    (opened,) = engine.wait_for(Kind.OPENED)
    engine.wait_for(Kind.HALF_CLOSED)
    assert engine.of(opened.call) == [Kind.OPENED, Kind.HALF_CLOSED]


def test_answers_after_half_close(engine: Engine, channel: grpc.Channel) -> None:
    """What is sent after the peer's half-close still arrives, in order, before the status."""
    replies = stream(channel, HOLD_STREAM)(iter([b"a"]), timeout=WAIT_S)
    (closed,) = engine.wait_for(Kind.HALF_CLOSED)
    for index in range(10):
        closed.call.send(b"%d" % index)
    closed.call.finish(Code.OK)
    assert list(replies) == [b"%d" % index for index in range(10)]
    assert replies.code() is grpc.StatusCode.OK


def test_server_may_end_a_stream_first(engine: Engine, channel: grpc.Channel) -> None:
    """A stream that the server finishes ends although the peer would send more."""
    outgoing = Outgoing()
    replies = stream(channel, HOLD_STREAM)(iter(outgoing), timeout=WAIT_S)
    outgoing.send(b"a")
    (event,) = engine.wait_for(Kind.MESSAGE)
    event.call.send(b"last")
    event.call.finish(Code.FAILED_PRECONDITION, "enough")
    received = []
    with pytest.raises(grpc.RpcError) as caught:
        received.extend(iter(replies))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    outgoing.half_close()
    ping(channel)
    assert Kind.CANCELLED not in engine.of(event.call)


def test_first_finish_counts(engine: Engine, channel: grpc.Channel) -> None:
    """A call that was finished is not finished again, and sending on it does nothing."""
    future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.REQUEST)
    event.call.finish(Code.OK, reply=b"first")
    event.call.finish(Code.INTERNAL, "second")
    assert future.result() == b"first"
    replies = stream(channel, HOLD_STREAM)(iter([b""]), timeout=WAIT_S)
    (closed,) = engine.wait_for(Kind.HALF_CLOSED)
    closed.call.finish(Code.OK)
    closed.call.send(b"late", settles=1)
    closed.call.settle(5)
    closed.call.finish(Code.INTERNAL, "late")
    assert list(replies) == []


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_every_code_arrives(channel: grpc.Channel, code: Code) -> None:
    """The peer gets the status code that the call was finished with."""
    message = json.dumps({"code": int(code), "text": f"because of {code.name}"}).encode()
    got, text = refusal(unary(channel, STATUS), message)
    assert (got.name, text) == (code.name, f"because of {code.name}")


@pytest.mark.parametrize(
    "text",
    ["", "100 % of %s %d %41", "größer als \u6c34 \U0001f30a", "line\nbreak\ttab", "x" * 3000],
    ids=["empty", "percent", "unicode", "control", "long"],
)
def test_status_message_arrives_unchanged(channel: grpc.Channel, text: str) -> None:
    """Whatever characters a status message has, the peer reads them."""
    message = json.dumps({"code": 3, "text": text}).encode()
    code, got = refusal(unary(channel, STATUS), message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert got == text


def test_endless_status_message_keeps_its_code(channel: grpc.Channel) -> None:
    """A status message that no peer would take as a header is cut, and the code arrives."""
    message = json.dumps({"code": 5, "text": "\u6c34" * 100_000}).encode()
    code, text = refusal(unary(channel, STATUS), message)
    assert code is grpc.StatusCode.NOT_FOUND
    assert text
    assert set(text.rstrip(".")) == {"\u6c34"}


def test_request_metadata_and_peer(engine: Engine, channel: grpc.Channel) -> None:
    """The engine sees the peer's metadata, its address and the method."""
    metadata = (("triton_grpc_error", "true"), ("secret-bin", b"\x00\x01\xfe"), ("twice", "1"),
                ("twice", "2"))  # fmt: skip
    unary(channel, ECHO)(b"", timeout=WAIT_S, metadata=metadata)
    (event,) = engine.wait_for(Kind.REQUEST)
    assert set(metadata) <= set(event.call.metadata)
    assert event.call.method == ECHO
    assert "127.0.0.1" in event.call.peer


def test_deadline_is_known(engine: Engine, channel: grpc.Channel) -> None:
    """The engine sees when the peer gives up, in seconds of the monotonic clock, or that never."""
    before = time.monotonic()
    unary(channel, ECHO)(b"", timeout=500)
    unary(channel, ECHO)(b"")
    with_deadline, without = engine.wait_for(Kind.REQUEST, count=2)
    assert with_deadline.call.deadline is not None
    assert before + 490 < with_deadline.call.deadline < time.monotonic() + 501
    assert without.call.deadline is None


@pytest.mark.parametrize("method", ["/test.Echo/No", "/test.No/Unary", "/x", "/test.Echo/"])
def test_unknown_method_is_unimplemented(channel: grpc.Channel, method: str) -> None:
    """A method or service that is not served ends with UNIMPLEMENTED."""
    code, _ = refusal(unary(channel, method), b"")
    assert code is grpc.StatusCode.UNIMPLEMENTED
    ping(channel)


def test_cancelled_unary_call(engine: Engine, channel: grpc.Channel) -> None:
    """A cancelled call gives exactly one CANCELLED event; finishing it then is harmless."""
    future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.REQUEST)
    future.cancel()
    engine.wait_for(Kind.CANCELLED)
    event.call.finish(Code.OK, reply=b"late")
    ping(channel)
    assert engine.of(event.call) == [Kind.REQUEST, Kind.CANCELLED]


@pytest.mark.parametrize("answers", [0, 1])
def test_cancelled_stream(engine: Engine, channel: grpc.Channel, answers: int) -> None:
    """A stream that is cancelled before or after its first answer gives one CANCELLED event."""
    outgoing = Outgoing()
    replies = stream(channel, HOLD_STREAM)(iter(outgoing), timeout=WAIT_S)
    outgoing.send(b"a")
    (event,) = engine.wait_for(Kind.MESSAGE)
    for _ in range(answers):
        event.call.send(b"b", settles=1)
        assert next(replies) == b"b"
    replies.cancel()
    outgoing.half_close()
    engine.wait_for(Kind.CANCELLED)
    event.call.send(b"late")
    event.call.finish(Code.OK)
    ping(channel)
    kinds = engine.of(event.call)  # the reset may look like a half-close first
    assert [kind for kind in kinds if kind is not Kind.HALF_CLOSED] == [
        Kind.OPENED,
        Kind.MESSAGE,
        Kind.CANCELLED,
    ]


def test_lost_connection_cancels(engine: Engine) -> None:
    """A peer that is gone is a cancelled call."""
    channel = grpc.insecure_channel(engine.address)
    future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.REQUEST)
    channel.close()
    assert not future.running()
    engine.wait_for(Kind.CANCELLED)
    assert engine.of(event.call) == [Kind.REQUEST, Kind.CANCELLED]


@pytest.mark.parametrize("method", [HOLD, HOLD_STREAM])
def test_deadline_passes_on_a_sleeping_engine(
    engine: Engine, channel: grpc.Channel, method: str
) -> None:
    """When nobody answers, the peer gets DEADLINE_EXCEEDED and the engine one CANCELLED event."""
    if method == HOLD:
        code, _ = refusal(unary(channel, method), b"", timeout=0.2)
    else:
        call = stream(channel, method)(iter([b""]), timeout=0.2)
        code, _ = refusal(lambda **_: next(call))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    (event,) = engine.wait_for(Kind.CANCELLED)
    ping(channel)
    assert engine.of(event.call).count(Kind.CANCELLED) == 1


def test_finished_call_is_not_cancelled(engine: Engine, channel: grpc.Channel) -> None:
    """A call that was answered gives no CANCELLED event, whatever the peer does afterwards."""
    for _ in range(20):
        future = unary(channel, ECHO).future(b"x", timeout=WAIT_S)
        assert future.result() == b"x"
        future.cancel()
    ping(channel)
    assert engine.seen(Kind.CANCELLED) == []


def test_answers_from_many_threads_keep_their_order(engine: Engine, channel: grpc.Channel) -> None:
    """Eight threads send on one stream: nothing is lost and each thread's order is kept."""
    replies = stream(channel, HOLD_STREAM)(iter([b""]), timeout=WAIT_S)
    (event,) = engine.wait_for(Kind.HALF_CLOSED)

    def send(sender: int) -> None:
        for index in range(100):
            event.call.send(b"%d %d" % (sender, index))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    event.call.finish(Code.OK)
    received = [tuple(int(part) for part in reply.split()) for reply in replies]
    assert len(received) == 800
    for sender in range(8):
        assert [index for who, index in received if who == sender] == list(range(100))


def test_calls_are_counted(engine: Engine, channel: grpc.Channel) -> None:
    """The totals of the metrics endpoint grow, and nothing is left in progress."""
    ping(channel, 5)
    eventually(lambda: engine.transport.counters()["calls"] == 0, "no call is in progress")
    assert engine.transport.counters()["calls_total"] == 5
