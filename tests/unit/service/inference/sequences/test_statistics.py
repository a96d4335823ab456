"""What is counted of steps: every failure once, and all the time that each has waited."""

from collections.abc import Callable

import pytest

from service.errors import DeadlineExceeded, RequestCancelled
from service.repository.sequences import Direct, Oldest
from tests.support.sequence_rig import Rig, Sent, rig

STRATEGIES = pytest.mark.parametrize("strategy", [Oldest(), Direct()], ids=["oldest", "direct"])


def waited_s(made: Rig) -> float:
    """Return what the steps that succeeded have waited together, to the second."""
    return round(made.engine.stats.snapshot().queue_ns.total / 1e9)


@STRATEGIES
def test_wait_behind_another_step_is_counted(strategy: Oldest | Direct) -> None:
    """Statistics have what the callers are told: the second step waits for the first to end."""
    with rig(strategy, is_open=False) as made:
        sent = [made.send(1, 1, start=True)]
        made.backend.wait_for_batches(1)
        sent.append(made.send(1, 2))
        made.clock.advance(5.0)
        made.backend.open()
        assert [one.total for one in sent] == [1, 3]
        told_s = [round(one.outcomes[0].timings.queue_ns / 1e9) for one in sent]
        assert told_s[1] == 5
        assert waited_s(made) == sum(told_s)


@STRATEGIES
def test_wait_of_steps_whose_batch_failed_is_counted(strategy: Oldest | Direct) -> None:
    """A step that is run again by itself waited since it was accepted, and no longer."""
    with rig(strategy) as made:
        made.backend.poison = {66}
        sent = [made.send(1, 1, start=True, deferred=True), made.send(2, 66, start=True)]
        assert sent[0].total == 1
        assert sent[1].error
        assert waited_s(made) == 0


@STRATEGIES
def test_deadline_that_passed_is_a_failure(strategy: Oldest | Direct) -> None:
    """A step that was accepted and never run counts, with the time that it waited."""
    with rig(strategy, is_open=False) as made:
        made.send(1, 1, start=True)
        made.backend.wait_for_batches(1)
        late = made.send(2, 2, start=True, deadline_s=1.0)
        made.clock.advance(3.0)
        made.backend.open()
        assert isinstance(late.error, DeadlineExceeded)
        totals = made.engine.stats.snapshot()
        assert (totals.failed, totals.failed_ns) == (1, 3 * 10**9)


def fail_run(made: Rig, told: Callable[[], None]) -> Sent:
    """Fail a step in its run."""
    made.backend.poison = {66}
    return made.send(1, 66, start=True, told=told)


def fail_in_queue(made: Rig, told: Callable[[], None]) -> Sent:
    """Fail a step behind another one, by its deadline."""
    made.backend.shut()
    made.send(1, 1, start=True)
    made.backend.wait_for_batches(1)
    late = made.send(1, 2, deadline_s=1.0, told=told)
    made.pass_time(2.0)
    return late


def fail_before_its_run(made: Rig, told: Callable[[], None]) -> Sent:
    """Fail a step that may run and waits for a thread, by its deadline."""
    made.backend.shut()
    made.send(1, 1, start=True)
    made.backend.wait_for_batches(1)
    late = made.send(2, 2, start=True, deadline_s=1.0, told=told)
    made.clock.advance(2.0)
    made.backend.open()
    return late


@STRATEGIES
@pytest.mark.parametrize("fail", [fail_run, fail_in_queue, fail_before_its_run])
def test_failure_is_counted_before_it_is_told(
    strategy: Oldest | Direct, fail: Callable[[Rig, Callable[[], None]], Sent]
) -> None:
    """Who asks for statistics as soon as he has the error finds it in them."""
    seen: list[int] = []
    with rig(strategy) as made:
        sent = fail(made, lambda: seen.append(made.engine.stats.snapshot().failed))
        assert sent.error
        assert seen == [1]


@STRATEGIES
def test_caller_who_left_is_no_failure_of_the_model(strategy: Oldest | Direct) -> None:
    """What becomes of his steps is counted by their answers alone."""
    with rig(strategy, is_open=False) as made:
        sent = [made.send(1, 1, start=True), made.send(1, 2)]
        made.backend.wait_for_batches(1)
        sent[0].request.cancel()
        assert [type(one.error) for one in sent] == [RequestCancelled] * 2
        assert made.engine.stats.snapshot().failed == 0
