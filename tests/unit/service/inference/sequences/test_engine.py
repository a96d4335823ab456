"""The engine of sequences: order, failures, time, cancellation, drain and close."""

from typing import Any, NoReturn

import numpy as np
import pytest

from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    QueueFull,
    RequestCancelled,
    SequenceBacklogFull,
    SequenceTimeout,
    ShuttingDown,
    StatesFull,
)
from service.inference.request import Request
from service.inference.sequences.assembly import Assembly
from service.tensors import Tensors
from tests.support.sequence_rig import Rig, rig
from tests.support.waiting import eventually


def refused(made: Rig, name: int) -> str:
    """Return why the next step of a sequence is refused."""
    with pytest.raises(InvalidRequest, match="must specify the START flag") as caught:
        made.send(name, 1)
    return str(caught.value).partition("; the one before ended: ")[2]


def test_one_step_of_a_sequence_runs_at_a_time() -> None:
    """Steps of one sequence wait for each other, those of another run with them."""
    with rig(is_open=False) as made:
        first = made.send(1, 1, start=True)
        made.backend.wait_for_batches(1)
        second, other = made.send(1, 2), made.send(2, 10, start=True)
        made.backend.permit(2)
        made.backend.wait_for_batches(2)
        made.backend.permit(2)
        assert [first.total, second.total, other.total] == [1, 3, 10]
        assert made.backend.batches[0] == [1]
        assert all(2 not in batch or 1 not in batch for batch in made.backend.batches)


def test_steps_of_many_sequences_are_one_batch() -> None:
    """What comes in one burst is run together, each with its own state."""
    with rig() as made:
        assert [sent.total for sent in made.burst((1, 1), (2, 10), (3, 100))] == [1, 10, 100]
        sent = [made.send(name, name, deferred=True) for name in (3, 1, 2)]
        made.engine.flush()
        assert [one.total for one in sent] == [103, 2, 12]
        assert made.backend.batches[-1] == [3, 1, 2]


def test_controls_tell_start_and_ready() -> None:
    """START is set on the first step alone, READY on every one."""
    with rig() as made:
        assert made.send(1, 1, start=True).total == 1
        assert made.send(1, 1, end=True).total == 2
        assert made.backend.starts == [[1], [0]]
        assert made.backend.ready == [[1], [1]]


def test_failing_member_ends_its_sequence_alone() -> None:
    """A run that fails is repeated for each member; only who fails again loses its state."""
    with rig() as made:
        for sent in made.burst((1, 1), (2, 2), (3, 3)):
            assert sent.total
        made.backend.poison = {66}
        steps = [made.send(name, value, deferred=True) for name, value in ((1, 5), (2, 66), (3, 7))]
        queued = made.send(2, 1, deferred=True)
        made.engine.flush()
        assert [steps[0].total, steps[2].total] == [6, 10]
        assert isinstance(steps[1].error, InferenceFailed)
        assert isinstance(queued.error, InvalidRequest)
        expected = f"a request of it failed: {steps[1].error}"
        assert str(queued.error).endswith(expected)
        assert refused(made, 2) == expected
        assert made.send(1, 1).total == 7


def test_idle_time_counts_from_the_last_answer() -> None:
    """A run longer than the idle limit ends nothing; silence after it does, exactly in time."""
    with rig(idle_s=10.0, is_open=False) as made:
        slow = made.send(1, 1, start=True)
        made.backend.wait_for_batches(1)
        made.pass_time(100.0)
        made.backend.open()
        assert slow.total == 1
        made.pass_time(9.9)
        assert made.send(1, 1).total == 2
        made.pass_time(9.9)
        assert made.engine.counts().open == 1
        made.pass_time(0.2)
        assert (made.engine.counts().open, made.engine.counts().reaped) == (0, 1)
        assert refused(made, 1).startswith("no request for 10 s")


def test_starts_of_live_sequences_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Callers can begin a sequence anew as often as they like: one of them a minute is logged."""
    with rig(idle_s=1000.0) as made:
        for seconds in (0.0, 59.0, 2.0):
            made.pass_time(seconds)
            for _ in range(3):
                assert made.send(1, 1, start=True).total == 1
        assert made.engine.counts().replaced == 8
    assert sum("was started anew" in record.message for record in caplog.records) == 2


def test_start_forgets_why_the_one_before_ended() -> None:
    """The reason is told until the id is used again."""
    with rig() as made:
        assert made.send(1, 1, start=True).total == 1
        made.pass_time(11.0)
        assert refused(made, 1)
        assert made.send(1, 1, start=True, end=True).total == 1
        assert refused(made, 1) == ""


def test_backlog_of_idle_sequences_is_worked_off() -> None:
    """Sequences that never end give their places to those that wait, in turn."""
    with rig(slots=2, backlog=6, idle_s=10.0) as made:
        sent = [made.send(name, name, start=True) for name in range(1, 9)]
        with pytest.raises(SequenceBacklogFull):
            made.send(9, 9, start=True)
        for done in (2, 4, 6, 8):
            assert [one.total for one in sent[:done]] == list(range(1, done + 1))
            eventually(lambda: made.engine.counts().waiting == 8 - done, "steps")  # noqa: B023
            made.pass_time(11.0)
        assert made.engine.counts().reaped == 8
        assert (made.engine.counts().open, made.engine.counts().backlog) == (0, 0)
        assert made.send(9, 9, start=True).total == 9


def test_timeout_in_the_backlog_ends_the_whole_sequence() -> None:
    """A request's timeout holds while its sequence has no place, for all of the sequence."""
    with rig(slots=1) as made:
        assert made.send(1, 1, start=True).total == 1
        first = made.send(2, 1, start=True, timeout_us=2_000_000)
        second = made.send(2, 1)
        patient = made.send(3, 1, start=True)
        made.pass_time(1.9)
        assert not first.outcomes
        made.pass_time(0.2)
        for sent in (first, second):
            assert isinstance(sent.error, SequenceTimeout)
        assert str(first.error) == "timeout of the corresponding sequence has been expired"
        assert not patient.outcomes
        assert refused(made, 2) == "it waited for a place longer than its timeout"


def test_step_that_missed_its_deadline_is_never_run() -> None:
    """A step whose deadline passes behind another ends its sequence, and costs no run."""
    with rig(is_open=False) as made:
        running = made.send(1, 1, start=True)
        made.backend.wait_for_batches(1)
        late, behind = made.send(1, 2, deadline_s=1.0), made.send(1, 3)
        made.pass_time(1.1)
        assert isinstance(late.error, DeadlineExceeded)
        assert isinstance(behind.error, InvalidRequest)
        made.backend.open()
        assert running.total == 1
        assert refused(made, 1) == "a request of it missed its deadline"
        assert made.backend.batches == [[1]]


def test_cancelling_a_queued_step_cancels_its_sequence() -> None:
    """Who leaves takes the queued requests of his sequence along; its place is free at once."""
    with rig(slots=1, is_open=False) as made:
        running = made.send(1, 1, start=True)
        made.backend.wait_for_batches(1)
        queued, behind = made.send(1, 2), made.send(1, 3)
        next_one = made.send(2, 7, start=True)
        queued.request.cancel()
        assert isinstance(behind.error, RequestCancelled)
        made.backend.open()
        assert running.total == 1
        assert next_one.total == 7
        assert made.backend.batches == [[1], [7]]
        assert refused(made, 1) == "a request of it was cancelled"


def test_cancelling_a_running_step_stops_the_run() -> None:
    """A run that nobody waits for is interrupted, and the sequence is over."""
    with rig(is_open=False) as made:
        running = made.send(1, 1, start=True)
        made.backend.wait_for_batches(1)
        running.request.cancel()
        eventually(lambda: made.backend.interrupted == 1, "an interrupt")
        assert refused(made, 1) == "a request of it was cancelled"
        assert made.engine.counts().open == 0


def test_replaced_sequence_finishes_what_it_has() -> None:
    """START on a live id lets the requests before it run, then begins from nothing."""
    with rig(slots=1, backlog=0, is_open=False) as made:
        sent = [made.send(1, 1, start=True), made.send(1, 2)]
        sent += [made.send(1, 10, start=True), made.send(1, 20), made.send(1, 100, start=True)]
        made.backend.open()
        assert [one.total for one in sent] == [1, 3, 10, 30, 100]
        assert made.engine.counts().replaced == 2
        assert made.engine.counts().open == 1


def test_failure_before_a_replacement_does_not_touch_it() -> None:
    """What is left of a replaced sequence may fail; its successor starts all the same."""
    with rig(slots=1, is_open=False) as made:
        made.backend.poison = {66}
        sent = [made.send(1, 66, start=True), made.send(1, 2), made.send(1, 10, start=True)]
        made.backend.open()
        assert sent[2].total == 10
        assert isinstance(sent[1].error, InvalidRequest)
        assert made.send(1, 1).total == 11


def test_same_id_in_two_scopes_does_not_meet() -> None:
    """An id is private to its scope, and a scope that is over leaves nothing."""
    with rig() as made:
        here, there = object(), object()
        for scope, value in ((here, 1.0), (there, 10.0), (None, 100.0)):
            assert made.send(5, value, start=True, scope=scope).total == value
        assert made.send(5, 1, scope=here).total == 2
        assert made.send(5, 1, scope=there).total == 11
        made.engine.release(here)
        assert not made.engine.is_busy(here)
        assert made.engine.counts().open == 2
        assert made.send(5, 1, scope=there, end=True).total == 12
        assert made.send(5, 1, end=True).total == 101


def test_sequence_of_a_scope_needs_no_id_and_no_start() -> None:
    """The first request without an id begins the sequence of its stream, as does that after END."""
    with rig() as made:
        scope = object()
        assert [made.send(0, v, scope=scope).total for v in (1, 2)] == [1, 3]
        assert made.send(0, 1, scope=scope, end=True).total == 4
        assert made.send("", 5, scope=scope).total == 5
        assert made.backend.starts == [[1], [0], [0], [1]]


def test_sequence_of_a_scope_is_not_begun_by_itself_after_a_failure() -> None:
    """Who goes on after an error is told; who says START goes on."""
    with rig() as made:
        scope = object()
        assert made.send(0, 1, scope=scope).total == 1
        made.backend.poison = {66}
        failed = made.send(0, 66, scope=scope)
        assert isinstance(failed.error, InferenceFailed)
        with pytest.raises(InvalidRequest, match="a request of it failed"):
            made.send(0, 1, scope=scope)
        assert made.send(0, 2, scope=scope, start=True).total == 2


def test_sequence_of_a_scope_is_never_idle() -> None:
    """A stream that is open may be silent; its state waits for it."""
    with rig(idle_s=1.0) as made:
        scope = object()
        assert made.send(0, 1, scope=scope).total == 1
        made.pass_time(10_000.0)
        assert made.send(0, 1, scope=scope).total == 2


def test_scope_that_ends_stops_what_runs() -> None:
    """The steps of a stream that is gone are stopped, those in the queue cancelled."""
    with rig(is_open=False) as made:
        scope = object()
        running = made.send(0, 1, scope=scope)
        made.backend.wait_for_batches(1)
        queued = made.send(0, 1, scope=scope)
        made.engine.release(scope)
        assert isinstance(running.error, RequestCancelled)
        assert isinstance(queued.error, RequestCancelled)
        assert made.engine.counts().open == 0


def test_waiting_steps_are_bounded() -> None:
    """More steps than the queue holds are refused, and the sequence is none the worse for it."""
    with rig(is_open=False, queue_requests=2) as made:
        sent = [made.send(1, 1, start=True), made.send(1, 1), made.send(1, 1)]
        with pytest.raises(QueueFull):
            made.send(1, 1)
        made.backend.open()
        assert [one.total for one in sent] == [1, 2, 3]
        assert made.send(1, 1).total == 4


def test_full_queue_keeps_nobody_out_who_need_not_wait() -> None:
    """Steps of one sequence that wait for each other are no reason to refuse another one."""
    with rig(slots=3, is_open=False, queue_requests=1) as made:
        busy, waiting = made.send(1, 1, start=True), made.send(1, 1)
        made.backend.wait_for_batches(1)
        other = made.send(2, 5, start=True)
        made.backend.open()
        assert [busy.total, waiting.total, other.total] == [1, 2, 5]
        made.backend.shut()
        made.send(1, 1)
        made.send(1, 1)
        assert made.engine.queue_depth
        again = made.send(2, 7, start=True)
        with pytest.raises(QueueFull):
            made.send(2, 7, start=True)
        made.backend.open()
        assert again.total == 7


def test_drain_refuses_new_sequences_alone() -> None:
    """Sequences in progress may go on to their end while no new one is begun."""
    with rig() as made:
        assert made.send(1, 1, start=True).total == 1
        made.engine.drain()
        with pytest.raises(ShuttingDown):
            made.send(2, 1, start=True)
        assert made.send(1, 1).total == 2
        assert made.send(1, 1, end=True).total == 3


def test_drain_tells_when_sequences_have_ended() -> None:
    """Each end is told, however it came; a step that ends none is not, for it says nothing."""
    told: list[str] = []
    with rig(idle_s=10.0) as made:
        for name in (1, 2, 3):
            assert made.send(name, 1, start=True).total == 1
        made.engine.drain(lambda: told.append("fewer"))
        assert made.send(1, 1).total == 2
        assert told == []
        made.send(1, 1, end=True).request.cancel()
        eventually(lambda: told == ["fewer"], "the end of one")
        made.pass_time(11.0)
        assert told == ["fewer"] * 2
        assert not made.engine.is_busy(None)


def test_close_answers_what_was_accepted() -> None:
    """Closing lets every accepted step run, also those of sequences that wait for a place."""
    with rig(slots=1, is_open=False) as made:
        sent = [made.send(1, 1, start=True), made.send(1, 2), made.send(2, 5, start=True)]
        made.backend.open()
        assert made.engine.close(10.0)
        assert [one.total for one in sent] == [1, 3, 5]
        with pytest.raises(ShuttingDown):
            made.send(1, 1)
        assert made.backend.closed == 1


def test_close_in_a_hurry_answers_with_the_shutdown() -> None:
    """What cannot be run in time is answered, and nothing runs on."""
    with rig(is_open=False) as made:
        sent = [made.send(1, 1, start=True), made.send(1, 2)]
        made.backend.wait_for_batches(1)
        assert not made.engine.close(0.0)
        assert all(one.error for one in sent)
        assert isinstance(sent[1].error, ShuttingDown)
        assert made.backend.closed == 1


def test_request_of_no_sequence_is_refused() -> None:
    """A model with sequences and no other use wants an id."""
    with rig() as made, pytest.raises(InvalidRequest, match="non-zero or non-empty correlation ID"):
        made.engine.submit(Request({}, ("Y",), rows=1, on_end=print))


def test_caller_who_left_before_he_was_accepted() -> None:
    """A request that has ended when it is submitted runs nothing and leaves no sequence."""
    with rig() as made:
        good = made.send(1, 1, start=True)
        assert good.total == 1
        late = made.send(1, 5, deferred=True)
        late.request.cancel()
        made.engine.flush()
        assert isinstance(late.error, RequestCancelled)
        assert made.engine.counts().open == 0
        assert made.backend.batches == [[1]]


def test_fault_of_ours_ends_the_sequence_and_frees_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step that cannot be handed on, for want of memory perhaps, holds nothing for ever."""
    with rig(slots=1) as made:

        def fail(*_: object) -> NoReturn:
            raise MemoryError

        with monkeypatch.context() as patched:
            patched.setattr(Assembly, "inputs", fail)
            assert isinstance(made.send(1, 1, start=True).error, InferenceFailed)
        assert "failed: inference failed" in refused(made, 1)
        assert made.send(2, 1, start=True).total == 1


def test_sequences_that_get_no_more_steps_make_room_for_those_that_wait() -> None:
    """A stream that is half closed ends its sequences as they are done, or two could block it."""
    stream, other = object(), object()
    with rig(slots=1) as made:
        assert made.send(1, 1, start=True, scope=stream).total == 1
        second = made.send(2, 10, start=True, scope=stream)
        third = made.send(2, 5, scope=stream)
        fourth = made.send(1, 7, start=True, scope=other)
        assert not second.outcomes
        made.engine.finish(stream)
        assert [second.total, third.total, fourth.total] == [10, 15, 7]
        assert made.engine.counts().open == 1


def test_states_are_bounded() -> None:
    """A step that leaves more state than there is room for is told so, and its sequence is over."""
    with rig(state_bytes=8) as made:
        assert made.send(1, 1, start=True).total == 1
        assert made.send(2, 1, start=True).total == 1
        assert made.engine.counts().state_bytes == 8
        one_too_many = made.send(3, 1, start=True)
        assert isinstance(one_too_many.error, StatesFull)
        assert made.send(4, 1, start=True, end=True).total == 1  # it leaves nothing
        assert made.send(1, 1, end=True).total == 2
        assert made.send(3, 5, start=True).total == 5
        assert made.engine.counts().state_bytes == 8


def test_states_of_strings_count_with_their_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a state of BYTES takes is not eight bytes an element."""
    with rig(state_bytes=100) as made:
        run = made.backend.run

        def spell(*arguments: Any) -> Tensors:
            return {**run(*arguments), "total_out": np.array([["x" * 100]], object)}

        monkeypatch.setattr(made.backend, "run", spell)
        assert isinstance(made.send(1, 1, start=True).error, StatesFull)
