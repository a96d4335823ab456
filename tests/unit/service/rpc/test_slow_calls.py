"""Calls that take long: in order by key, at once otherwise, bounded, and refused at the end."""

import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from service.errors import InvalidRequest, ShuttingDown, TooBusy
from service.rpc.slow_calls import SlowCalls
from service.transport.seam import Code
from tests.support.waiting import WAIT_S


class Call:
    """A call that notes its end. Its answer stands at a gate of its own."""

    method, peer = "/load", "test"

    def __init__(self, log: list[str], name: str = "") -> None:
        self.name = name
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.end: tuple[Code, str, bytes | None] | None = None
        self._log = log

    def answer(self, message: bytes) -> bytes:
        """Answer once the gate is open."""
        self.begun.set()
        assert self.gate.wait(WAIT_S)
        self._log.append(self.name)
        return message.upper()

    def finish(self, code: Code, message: str = "", *, reply: bytes | None = None) -> None:
        """Note how the call ends; only the first end counts."""
        if not self.ended.is_set():
            self.end = code, message, reply
            self.ended.set()


Submit = Callable[[Call, bytes], None]


@pytest.fixture
def log() -> list[str]:
    """Collect the names of calls in the order in which they were answered."""
    return []


@pytest.fixture
def slow() -> Iterator[SlowCalls]:
    """Make the threads' owner; they end with the test."""
    made = SlowCalls("wait")
    yield made
    made.drain()
    made.join(WAIT_S)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("admin-")]


def submit(slow: SlowCalls, call: Call, key: bytes) -> None:
    """Submit a call."""
    slow.submit(cast("Any", call), key, call.answer, b"message")


def test_one_key_is_answered_in_order(slow: SlowCalls, log: list[str]) -> None:
    """The second call begins when the first one has ended."""
    first, second = Call(log, "first"), Call(log, "second")
    submit(slow, first, b"m")
    submit(slow, second, b"m")
    assert first.begun.wait(WAIT_S)
    second.gate.set()
    assert not second.begun.is_set()
    first.gate.set()
    assert second.ended.wait(WAIT_S)
    assert log == ["first", "second"]
    assert second.end == (Code.OK, "", b"MESSAGE")


def test_other_keys_do_not_wait(slow: SlowCalls, log: list[str]) -> None:
    """A call that takes for ever holds up nobody but its own key, as long as threads are left."""
    stuck, behind, other = Call(log, "stuck"), Call(log, "behind"), Call(log, "other")
    for call, key in ((stuck, b"m"), (behind, b"m"), (other, b"n")):
        submit(slow, call, key)
    other.gate.set()
    assert other.ended.wait(WAIT_S)
    assert not behind.begun.is_set()
    stuck.gate.set()
    behind.gate.set()
    assert behind.ended.wait(WAIT_S)


def test_errors_are_told_and_end_no_thread(slow: SlowCalls, log: list[str]) -> None:
    """What an answer raises becomes the status of its call; the next one is answered."""
    for error, code in ((InvalidRequest("no"), Code.INVALID_ARGUMENT), (KeyError(), Code.INTERNAL)):
        call = Call(log)

        def fail(_message: bytes, error: Exception = error) -> bytes:
            raise error

        slow.submit(cast("Any", call), b"m", fail, b"")
        assert call.ended.wait(WAIT_S)
        assert call.end is not None
        assert call.end[0] is code
    last = Call(log)
    last.gate.set()
    submit(slow, last, b"m")
    assert last.ended.wait(WAIT_S)


def test_who_leaves_while_he_waits_is_forgotten(slow: SlowCalls, log: list[str]) -> None:
    """A call that has begun is finished all the same: half a load is no state to leave behind."""
    begun, waiting = Call(log, "begun"), Call(log, "waiting")
    submit(slow, begun, b"m")
    submit(slow, waiting, b"m")
    assert begun.begun.wait(WAIT_S)
    for call in (begun, waiting):
        slow.cancelled(cast("Any", call))
    begun.gate.set()  # not before the other one has left, whose turn is next
    waiting.gate.set()
    last = Call(log, "last")
    last.gate.set()
    submit(slow, last, b"m")
    assert last.ended.wait(WAIT_S)
    assert log == ["begun", "last"]
    assert not waiting.begun.is_set()


def test_so_many_may_wait(slow: SlowCalls, log: list[str]) -> None:
    """What would wait behind 64 others is refused, and admitted again when there is room."""
    calls = [Call(log) for _ in range(65)]
    submit(slow, calls[0], b"m")
    assert calls[0].begun.wait(WAIT_S)
    for call in calls[1:]:
        submit(slow, call, b"m")
    with pytest.raises(TooBusy, match="64 calls wait to wait: try again later"):
        submit(slow, Call(log), b"n")
    slow.cancelled(cast("Any", calls[-1]))
    submit(slow, Call(log), b"m")
    slow.drain()
    calls[0].gate.set()


def test_drain_refuses_all_at_once(slow: SlowCalls, log: list[str]) -> None:
    """Nobody waits for what ends with the server: what waits, what has begun, what comes."""
    begun, waiting = Call(log), Call(log)
    submit(slow, begun, b"m")
    submit(slow, waiting, b"m")
    assert begun.begun.wait(WAIT_S)
    slow.drain()
    for call in (waiting, begun):
        assert call.end is not None
        assert call.end[:2] == (Code.UNAVAILABLE, str(ShuttingDown()))
    with pytest.raises(ShuttingDown):
        submit(slow, Call(log), b"m")
    begun.gate.set()
    slow.join(WAIT_S)
    assert log == [""]  # it was finished all the same
    assert begun.end == waiting.end
