"""What may wait, for how long, and in which order it is served."""

import pytest

from service.errors import (
    DeadlineExceeded,
    DeadlineUnmeetable,
    QueueFull,
    QueueTimeout,
)
from service.inference.policy import BatchPolicy
from service.inference.queue import LevelPolicy, QueuePolicy
from tests.support.bench import Bench, bench, occupy


def test_full_queue_refuses() -> None:
    """As many requests wait as queue_requests says; the next one is refused, later ones not."""
    with bench(queue_requests=2) as made:
        occupy(made)
        made.submit_all(1, 2)
        with pytest.raises(QueueFull, match="Exceeds maximum queue size: 2 requests wait"):
            made.submit(3)
        assert 3 not in made.outcomes
        made.backend.permit()
        made.backend.wait_for_batches(2)
        made.submit(4)
        made.backend.open()
        made.assert_answered(1, 2, 4)


def test_cancelled_requests_make_room() -> None:
    """A place in the queue is free as soon as its request has left."""
    with bench(queue_requests=1) as made:
        occupy(made)
        made.submit(1).cancel()
        made.submit(2)
        made.backend.open()
        made.assert_answered(2)


def test_bytes_that_wait_are_bounded() -> None:
    """Requests whose contents exceed queue_bytes together are refused, a lone one never."""
    with bench(queue_bytes=100) as made:
        occupy(made)
        made.submit(1, rows=4, width=100)  # larger than the bound: let through alone
        with pytest.raises(QueueFull, match="Exceeds maximum queue size"):
            made.submit(2)
        made.backend.open()
        assert made.outcome(1).error is None


def test_level_has_a_bound_of_its_own() -> None:
    """max_queue_size of a level refuses its requests and no others."""
    policy = QueuePolicy(levels=2, default_level=2, by_level=((1, LevelPolicy(max_requests=1)),))
    with bench(queue=policy) as made:
        occupy(made)
        made.submit(1, priority=1)
        with pytest.raises(QueueFull):
            made.submit(2, priority=1)
        made.submit(3)
        made.backend.open()
        made.assert_answered(1, 3)


def test_priority_decides_the_order() -> None:
    """What came later with a higher priority runs first."""
    with bench(batch=BatchPolicy(max_rows=1), queue=QueuePolicy(levels=3, default_level=2)) as made:
        occupy(made)
        made.submit(3, priority=3)
        made.submit(2)
        made.submit(1, priority=1)
        made.backend.open()
        made.assert_answered(1, 2, 3)
        assert made.backend.batches == [[100], [1], [2], [3]]


def test_deadline_that_cannot_be_met_is_refused() -> None:
    """When the queued work takes longer than the deadline allows, the request is refused now."""
    with bench(batch=BatchPolicy(max_rows=1)) as made:
        made.backend.permit(8)
        made.submit_all(*range(1, 9))
        made.assert_answered(*range(1, 9))
        occupy_after = len(made.backend.batches)
        made.submit(100)
        made.backend.wait_for_batches(occupy_after + 1)
        made.submit(101)
        with pytest.raises(DeadlineUnmeetable, match=r"of work is queued for model 'fake'"):
            made.submit(102, deadline=-1.0)
        made.backend.open()
        made.assert_answered(100, 101)


def test_expired_request_is_never_run(lone: Bench) -> None:
    """A deadline that passes in the queue ends the request before it can run."""
    occupy(lone)
    lone.submit(1, deadline=5.0)
    lone.submit(2, deadline=500.0)
    lone.clock.advance(6.0)
    lone.backend.open()
    assert isinstance(lone.error(1), DeadlineExceeded)
    lone.assert_answered(2)
    assert lone.backend.batches == [[100], [2]]
    assert lone.scheduler.stats.snapshot().failed == 1


def test_queue_timeout_rejects() -> None:
    """A request that waited longer than the queue policy allows is refused and never run."""
    with bench(queue=QueuePolicy(default=LevelPolicy(timeout_s=2.0))) as made:
        occupy(made)
        made.submit(1)
        made.clock.advance(3.0)
        made.submit(2)
        made.backend.open()
        assert isinstance(made.error(1), QueueTimeout)
        made.assert_answered(2)
        assert made.backend.batches == [[100], [2]]


def test_timeout_holds_while_a_batch_waits_for_more() -> None:
    """A request whose deadline passes before the batching delay is told at its deadline."""
    with bench(batch=BatchPolicy(max_rows=4, max_delay_s=1000.0), start=False) as made:
        made.submit(1, deadline=0.02)
        made.scheduler.start()
        made.clock.advance(0.02)
        assert isinstance(made.error(1), DeadlineExceeded)
        assert made.backend.batches == []


def test_preferred_size_is_run_at_once() -> None:
    """With a delay configured, a preferred size is not waited with."""
    policy = BatchPolicy(max_rows=4, preferred_rows=(2,), max_delay_s=1000.0)
    with bench(batch=policy) as made:
        made.submit_all(1, 2)
        made.backend.wait_for_batches(1)
        assert made.backend.batches == [[1, 2]]


def test_delay_ends_the_wait() -> None:
    """Requests short of a full batch run once the oldest has waited for the delay."""
    with bench(batch=BatchPolicy(max_rows=4, max_delay_s=1000.0)) as made:
        made.submit_all(1, 2)
        made.clock.advance(999.0)
        made.scheduler.flush()
        assert made.backend.batches == []
        made.clock.advance(1.0)
        made.scheduler.flush()
        made.backend.wait_for_batches(1)
        assert made.backend.batches == [[1, 2]]


def test_full_batch_does_not_wait_for_the_delay() -> None:
    """A batch that is full runs although the delay is not over."""
    with bench(batch=BatchPolicy(max_rows=2, max_delay_s=1000.0)) as made:
        made.submit_all(1, 2)
        made.backend.wait_for_batches(1)
        assert made.backend.batches == [[1, 2]]
