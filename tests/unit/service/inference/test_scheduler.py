"""The scheduler with a backend that waits for the test: batching, cancellation, ends."""

import threading
from queue import SimpleQueue

from service.errors import (
    InferenceFailed,
    RequestCancelled,
    ShuttingDown,
)
from service.inference.policy import BatchPolicy
from service.inference.request import Outcome, Request, batch_key
from tests.support.bench import Bench, bench, occupy
from tests.support.fake import BATCHED, SINGLE, WAIT_S, FakeBackend, row
from tests.support.waiting import eventually


def test_what_queues_while_the_model_runs_is_one_batch(lone: Bench) -> None:
    """Natural batching: three requests that came during a run make the next one together."""
    occupy(lone)
    lone.submit_all(1, 2, 3)
    lone.backend.permit()
    lone.backend.wait_for_batches(2)
    assert lone.backend.batches == [[100], [1, 2, 3]]
    lone.backend.permit()
    lone.assert_answered(100, 1, 2, 3)


def test_first_request_waits_for_nothing(lone: Bench) -> None:
    """A request that meets an idle model runs at once, alone."""
    occupy(lone)
    assert lone.backend.batches == [[100]]


def test_batch_is_no_larger_than_allowed(lone: Bench) -> None:
    """More than max_rows rows go into several batches."""
    occupy(lone)
    lone.submit_all(1, 2, 3, 4, 5)
    lone.backend.open()
    lone.assert_answered(1, 2, 3, 4, 5)
    assert lone.backend.batches == [[100], [1, 2, 3, 4], [5]]


def test_shapes_do_not_mix(lone: Bench) -> None:
    """Requests whose rows have different shapes run in different batches."""
    occupy(lone)
    lone.submit(1, width=2)
    lone.submit(2, width=3)
    lone.submit(3, width=2)
    lone.backend.open()
    lone.assert_answered(1, 3)
    assert lone.outcome(2).error is None
    assert lone.backend.batches == [[100], [1, 3], [2]]


def test_model_without_batches_runs_each_request_alone() -> None:
    """A model that does not batch gets one request a run."""
    with bench(batch=BatchPolicy(max_rows=1), backend=FakeBackend(SINGLE)) as made:
        occupy(made)
        made.submit_all(1, 2)
        made.backend.open()
        made.assert_answered(1, 2)
        assert made.backend.batches == [[100], [1], [2]]


def test_cancelled_request_is_never_run(lone: Bench) -> None:
    """A request cancelled in the queue costs no compute, and its batch mates are answered."""
    occupy(lone)
    first, second, third = lone.submit_all(1, 2, 3)
    assert second.cancel()
    assert lone.scheduler.queue_depth == 2
    lone.backend.open()
    lone.assert_answered(1, 3)
    assert lone.backend.batches == [[100], [1, 3]]
    assert isinstance(lone.error(2), RequestCancelled)
    assert not first.cancel()
    assert not third.cancel()


def test_cancelling_in_a_running_batch_leaves_the_others_alone(lone: Bench) -> None:
    """A member that leaves during the run loses its answer; the others get theirs."""
    occupy(lone)
    first, _ = lone.submit_all(1, 2)
    lone.backend.permit()
    lone.backend.wait_for_batches(2)
    first.cancel()
    lone.backend.open()
    lone.assert_answered(2)
    assert lone.backend.interrupted == 0
    assert isinstance(lone.error(1), RequestCancelled)
    totals = lone.scheduler.stats.snapshot()
    assert (totals.queue_ns.count, totals.compute_ns.count) == (2, 2)  # and of the run before
    assert (totals.rows, totals.failed) == (3, 0)  # the row ran anyway


def test_run_is_interrupted_when_all_its_members_have_left(lone: Bench) -> None:
    """A run that nobody waits for is stopped, and the model serves on."""
    occupy(lone)
    members = lone.submit_all(1, 2)
    lone.backend.permit()
    lone.backend.wait_for_batches(2)
    for member in members:
        member.cancel()
    lone.submit(3)
    lone.backend.wait_for_batches(3)
    assert lone.backend.interrupted == 1
    lone.backend.open()
    lone.assert_answered(3)


def test_failing_member_fails_alone(lone: Bench) -> None:
    """A batch that fails is run again member by member: only the bad one fails."""
    lone.backend.poison = {2.0}
    occupy(lone)
    lone.submit_all(1, 2, 3)
    lone.backend.open()
    lone.assert_answered(1, 3)
    assert isinstance(lone.error(2), InferenceFailed)
    assert lone.backend.batches == [[100], [1, 2, 3], [1], [2], [3]]


def test_failure_gives_an_id_and_no_internals(lone: Bench) -> None:
    """The caller of a failed run learns the model and an error id, not the cause."""
    lone.backend.poison = {1.0}
    lone.backend.open()
    lone.submit(1)
    text = str(lone.error(1))
    assert text.startswith("inference failed for model 'fake' (error id ")
    assert "poison" not in text


def test_outputs_that_break_the_contract_fail_the_run(lone: Bench) -> None:
    """An output with too few rows is never sent: every member fails."""
    lone.backend.breaks_contract = True
    occupy(lone)
    lone.submit_all(1, 2)
    lone.backend.open()
    assert isinstance(lone.error(1), InferenceFailed)
    assert isinstance(lone.error(2), InferenceFailed)
    assert isinstance(lone.error(100), InferenceFailed)


def test_members_get_the_outputs_they_asked_for(lone: Bench) -> None:
    """Batch mates may want different outputs; each gets its own, in its order."""
    occupy(lone)
    lone.submit(1, outputs=("Y",))
    lone.submit(2, outputs=("Z", "Y"))
    lone.backend.open()
    first, second = lone.outcome(1).outputs, lone.outcome(2).outputs
    assert first is not None
    assert second is not None
    assert list(first) == ["Y"]
    assert list(second) == ["Z", "Y"]
    assert lone.backend.batches == [[100], [1, 2]]


def test_instances_run_side_by_side() -> None:
    """Two instances run two batches at once."""
    with bench(batch=BatchPolicy(max_rows=1), instances=2) as made:
        made.submit_all(1, 2, 3)
        made.backend.wait_for_batches(2)
        assert made.scheduler.queue_depth == 1
        assert sorted(made.backend.batches) == [[1], [2]]
        made.backend.open()
        made.assert_answered(1, 2, 3)


def test_close_answers_what_was_accepted() -> None:
    """Closing refuses new requests, runs those that wait, and only then frees the model."""
    with bench() as made:
        occupy(made)
        made.submit_all(1, 2)
        clean: list[bool] = []
        closing = threading.Thread(target=lambda: clean.append(made.scheduler.close(WAIT_S)))
        closing.start()
        eventually(lambda: _refuses(made), "new requests are refused")
        assert made.backend.closed == 0
        made.backend.open()
        closing.join(WAIT_S)
        made.assert_answered(100, 1, 2)
        assert clean == [True]
        assert made.backend.closed == 1
        made.backend.closed = 0  # the end of the test closes it once more


def test_close_gives_up_at_its_timeout() -> None:
    """What waits or runs when the time to close is over is stopped and ends with ShuttingDown."""
    with bench() as made:
        occupy(made)
        made.submit(1)
        assert made.scheduler.close(0.01) is False
        assert isinstance(made.error(1), ShuttingDown)
        assert isinstance(made.error(100), ShuttingDown)
        assert made.backend.interrupted == 1
        assert made.backend.closed == 1
        made.backend.closed = 0  # the end of the test closes it once more


def test_close_waits_for_a_run_on_the_thread_that_flushes() -> None:
    """The model is freed only when a batch that flush runs by itself has ended."""
    with bench(backend=FakeBackend(is_open=True)) as made:
        value = 0.0
        while not made.scheduler.runs_inline(batch_key(BATCHED, row(5)), 1):
            value += 1
            assert value < 1000, "runs of microseconds are not taken for cheap"
            made.submit(value)
            made.assert_answered(value)
        made.backend.shut()
        ends: SimpleQueue[Outcome] = SimpleQueue()
        batches = len(made.backend.batches)
        made.scheduler.submit(Request(row(5), ("Y",), rows=1, on_end=ends.put), deferred=True)
        flushing = threading.Thread(target=made.scheduler.flush)
        flushing.start()
        made.backend.wait_for_batches(batches + 1)
        closing = threading.Thread(target=lambda: made.scheduler.close(WAIT_S))
        closing.start()
        closing.join(0.2)  # it would be over by now if it did not wait
        assert closing.is_alive()
        assert made.backend.closed == 0
        made.backend.open()
        closing.join(WAIT_S)
        flushing.join(WAIT_S)
        assert ends.get(timeout=WAIT_S).error is None
        assert made.backend.closed == 1
        made.backend.closed = 0  # the end of the test closes it once more


def test_unstarted_scheduler_keeps_what_is_submitted() -> None:
    """Requests that come before the start are served by it, in order."""
    with bench(start=False) as made:
        made.submit_all(1, 2)
        assert made.scheduler.queue_depth == 2
        made.scheduler.start()
        made.backend.open()
        made.assert_answered(1, 2)
        assert made.backend.batches == [[1, 2]]


def test_end_races_are_told_once(lone: Bench) -> None:
    """Eight threads that end one request at once end it once."""
    occupy(lone)
    request = lone.submit(1)
    barrier = threading.Barrier(8)
    won: list[bool] = []

    def end() -> None:
        barrier.wait(WAIT_S)
        won.append(request.cancel())

    threads = [threading.Thread(target=end) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(won) == [False] * 7 + [True]
    assert isinstance(lone.error(1), RequestCancelled)


def test_statistics_count_batches_and_rows(lone: Bench) -> None:
    """Executions are counted by batch size, rows and requests by their number."""
    occupy(lone)
    lone.submit_all(1, 2, 3)
    lone.backend.open()
    lone.assert_answered(100, 1, 2, 3)
    totals = lone.scheduler.stats.snapshot()
    assert totals.rows == 4
    assert totals.queue_ns.count == 4
    assert {rows: batch.executions for rows, batch in totals.batches.items()} == {1: 1, 3: 1}


def test_answer_says_how_long_it_waited(lone: Bench) -> None:
    """The time in the queue counts from acceptance to the start of the batch."""
    occupy(lone)
    lone.submit(1)
    lone.clock.advance(3.0)
    lone.backend.open()
    waited_s = lone.outcome(1).timings.queue_ns / 1e9
    assert 2.0 < waited_s <= 3.0


def _refuses(made: Bench) -> bool:
    try:
        made.scheduler.submit(Request(row(0), ("Y",), rows=1, on_end=lambda _outcome: None))
    except ShuttingDown:
        return True
    return False
