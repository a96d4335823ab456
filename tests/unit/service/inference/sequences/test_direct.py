"""Strategy `direct`: rows that belong to sequences, holes, delays, failures, cancellation."""

import math
import threading
from typing import Any

import numpy as np
import pytest

from service.errors import DeadlineExceeded, InferenceFailed, RequestCancelled, ShuttingDown
from service.repository.sequences import Direct, Oldest
from service.tensors import Tensors
from tests.support.sequence_rig import rig
from tests.support.waiting import eventually


def test_every_sequence_keeps_its_row() -> None:
    """Rows without a step are filled and told so; none above the highest that has one is run."""
    with rig(Direct()) as made:
        for sent in made.burst((1, 1), (2, 10), (3, 100), (4, 1000)):
            assert sent.total
        assert made.backend.ready == [[1, 1, 1, 1]]
        assert made.send(3, 5).total == 105
        assert made.send(1, 5).total == 6
        assert made.backend.ready[1:] == [[0, 0, 1], [1]]
        assert made.backend.batches[1] == [0, 0, 5]
        assert made.send(3, 1, end=True).total == 106
        assert made.send(5, 7, start=True).total == 7
        assert made.backend.ready[-1] == [0, 0, 1]  # in the row that became free
        assert made.backend.starts[-1] == [0, 0, 1]


def test_one_batch_of_an_instance_runs_at_a_time() -> None:
    """What becomes ready while a batch runs is the next batch."""
    with rig(Direct(), is_open=False) as made:
        first = made.send(1, 1, start=True)
        made.backend.wait_for_batches(1)
        rest = [made.send(name, name, start=True) for name in (2, 3)] + [made.send(1, 1)]
        made.backend.permit()
        made.backend.wait_for_batches(2)
        assert made.backend.batches == [[1], [1, 2, 3]]
        made.backend.open()
        assert [sent.total for sent in (first, *rest)] == [1, 2, 3, 2]


def test_instances_have_rows_of_their_own() -> None:
    """Twice as many sequences have a place with two instances; one more waits."""
    with rig(Direct(), rows=2, lanes=2) as made:
        assert [s.total for s in made.burst((1, 1), (2, 2), (3, 3), (4, 4))] == [1, 2, 3, 4]
        fifth = made.send(5, 5, start=True)
        assert made.engine.counts().backlog == 1
        assert made.send(2, 1, end=True).total == 3
        assert fifth.total == 5


def test_batch_waits_for_its_rows_and_no_longer_than_it_may() -> None:
    """With a utilization a step waits for others, until the delay is over or there are enough."""
    with rig(Direct(max_delay_s=1.0, min_utilization=0.5)) as made:
        first = made.send(1, 1, start=True)
        made.pass_time(0.9)
        assert not first.outcomes
        made.pass_time(0.2)
        assert first.total == 1
        pair = [made.send(1, 1), made.send(2, 5, start=True)]
        assert [sent.total for sent in pair] == [2, 5]
        assert made.backend.ready == [[1], [1, 1]]


def test_delay_is_kept_by_the_clock_of_the_engine() -> None:
    """Nobody has to send anything for a delayed batch to run."""
    with rig(Direct(max_delay_s=0.001, min_utilization=1.0)) as made:
        made.engine.start()
        sent = made.send(1, 1, start=True)
        made.clock.advance(1.0)
        made.send(2, 1, start=True)  # wakes the thread; the clock of this test does not
        assert sent.total == 1


def test_held_step_whose_caller_left_wakes_nobody() -> None:
    """A lane that held only that step is not looked at again, least of all without a pause."""
    with rig(Direct(max_delay_s=1.0, min_utilization=1.0)) as made:
        held = made.send(1, 1, start=True)
        assert made.runner.wakes_at == made.clock() + 1.0
        held.request.cancel()
        assert made.runner.wakes_at == math.inf


def test_failing_row_ends_its_sequence_alone() -> None:
    """Rows of a batch that fails are run again, each alone and in its place."""
    with rig(Direct()) as made:
        for sent in made.burst((1, 1), (2, 2), (3, 3)):
            assert sent.total
        made.backend.poison = {66}
        steps = [made.send(name, value, deferred=True) for name, value in ((1, 5), (2, 66), (3, 7))]
        made.engine.flush()
        assert [steps[0].total, steps[2].total] == [6, 10]
        assert isinstance(steps[1].error, InferenceFailed)
        assert made.backend.ready[1:] == [[1, 1, 1], [1], [0, 1], [0, 0, 1]]
        assert made.engine.counts().open == 2
        assert made.send(3, 1).total == 11


def test_row_whose_caller_left_is_given_away() -> None:
    """The sequence of a cancelled step is over at once; the batch runs on for the others."""
    with rig(Direct(), is_open=False) as made:
        sent = made.burst((1, 1), (2, 2))
        made.backend.wait_for_batches(1)
        sent[1].request.cancel()
        assert isinstance(sent[1].error, RequestCancelled)
        heir = made.send(3, 30, start=True)
        made.backend.open()
        assert sent[0].total == 1
        assert heir.total == 30
        assert made.backend.batches == [[1, 2], [0, 30]]


def test_batch_that_nobody_waits_for_is_stopped() -> None:
    """When every caller of a batch has left, the run is interrupted and the lane goes on."""
    with rig(Direct(), is_open=False) as made:
        sent = made.burst((1, 1), (2, 2))
        made.backend.wait_for_batches(1)
        for one in sent:
            one.request.cancel()
        eventually(lambda: made.backend.interrupted == 1, "an interrupt")
        made.backend.open()
        assert made.send(3, 3, start=True).total == 3


def test_step_that_missed_its_deadline_is_never_run() -> None:
    """A step that waits for its lane until its deadline has passed is not run."""
    with rig(Direct(), is_open=False) as made:
        first = made.send(1, 1, start=True)
        made.backend.wait_for_batches(1)
        late = made.send(2, 2, start=True, deadline_s=1.0)
        made.clock.advance(1.5)
        made.backend.open()
        assert first.total == 1
        assert isinstance(late.error, DeadlineExceeded)
        assert made.backend.batches == [[1]]
        assert made.engine.counts().open == 1


def test_step_that_waits_for_others_keeps_its_deadline() -> None:
    """A step that is held for a fuller batch ends at its deadline, not when the batch is due."""
    with rig(Direct(max_delay_s=30.0, min_utilization=1.0)) as made:
        late = made.send(1, 1, start=True, deadline_s=1.0)
        other = made.send(2, 5, start=True)
        made.pass_time(1.5)
        assert isinstance(late.error, DeadlineExceeded)
        assert not other.outcomes
        made.pass_time(30.0)
        assert other.total == 5


@pytest.mark.parametrize("strategy", [Oldest(), Direct()], ids=["oldest", "direct"])
def test_step_that_runs_at_a_close_in_a_hurry(strategy: Oldest | Direct) -> None:
    """Who waits for a step that is stopped is told of the shutdown: he has cancelled nothing."""
    with rig(strategy, slots=4, rows=4, is_open=False) as made:
        running = made.send(1, 1, start=True)
        made.backend.wait_for_batches(1)
        queued = made.send(1, 2)
        backlog = [made.send(name, 1, start=True) for name in range(2, 8)]
        assert not made.engine.close(0.0)
        ended = [running, queued, *backlog]
        assert [type(sent.error) for sent in ended] == [ShuttingDown] * len(ended)


@pytest.mark.parametrize("strategy", [Oldest(), Direct()], ids=["oldest", "direct"])
@pytest.mark.parametrize("is_poisoned", [False, True])
def test_an_answer_that_cannot_be_given_strands_nobody(
    strategy: Oldest | Direct, *, is_poisoned: bool
) -> None:
    """An error in one caller's callback leaves his batch mates answered, and his own sequence."""

    def broken() -> None:
        raise RuntimeError("broken")

    with rig(strategy, is_open=False) as made:
        made.backend.poison = {66} if is_poisoned else set()
        held = made.send(1, 1, start=True)
        made.backend.wait_for_batches(1)
        made.send(2, 66, start=True, told=broken, deferred=True)
        mates = [made.send(3, 3, start=True), made.send(1, 2), made.send(1, 4)]
        made.backend.open()
        assert [sent.total for sent in (held, *mates)] == [1, 3, 3, 7]


@pytest.mark.parametrize("strategy", [Oldest(), Direct()], ids=["oldest", "direct"])
def test_many_threads_and_many_sequences(strategy: Oldest | Direct) -> None:
    """Sequences of several threads at once add up, whatever runs with whatever."""
    wrong: list[tuple[float, float]] = []

    def drive(base: int) -> None:
        for round_ in range(5):
            names = range(base + round_ * 10, base + round_ * 10 + 4)
            sent = [
                (made.send(name, value, start=value == 1, end=value == 20), value)
                for value in range(1, 21)
                for name in names
            ]
            wrong.extend(
                (one.total, value * (value + 1) / 2)
                for one, value in sent
                if one.total != value * (value + 1) / 2
            )

    with rig(strategy, slots=6, backlog=100, rows=3, lanes=2) as made:
        threads = [threading.Thread(target=drive, args=(1000 * n,)) for n in range(1, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert made.engine.counts().opened == 3 * 5 * 4
        eventually(lambda: made.engine.counts().open == 0, "the end of all")


def test_steps_with_states_of_unlike_shapes_run_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A graph may leave a state that is not what config.pbtxt says: no step waits for ever."""
    with rig(Direct()) as made:
        run = made.backend.run

        def widen(*arguments: Any) -> Tensors:
            outputs = run(*arguments)
            return {**outputs, "total_out": np.repeat(outputs["total_out"], 2, axis=1)}

        with monkeypatch.context() as patched:
            patched.setattr(made.backend, "run", widen)
            assert made.send(1, 1, start=True).total == 1
        sent = [made.send(1, 2, deferred=True), made.send(2, 5, start=True, deferred=True)]
        made.engine.flush()
        assert [one.total for one in sent] == [3, 5]
