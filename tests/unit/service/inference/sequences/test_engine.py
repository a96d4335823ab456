"""The engine of sequences: order, failures, time, cancellation."""

from typing import NoReturn

import pytest

from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    RequestCancelled,
    SequenceTimeout,
)
from service.inference.request import Request
from service.inference.sequences.assembly import Assembly
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
