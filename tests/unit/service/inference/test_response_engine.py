"""The engine for responses: answers in order, the queue, statistics, closing."""

import threading

import pytest

from service.errors import DeadlineExceeded, InvalidRequest, LoadError, QueueFull, ShuttingDown
from service.inference.admission import SchedulerConfig
from service.inference.policy import BatchPolicy
from service.inference.producer import Producer, Responses
from service.inference.request import Request
from service.inference.responses import ResponseEngine
from tests.support.producers import Caller, FakeProducer, engine_of, giving, until_left, value
from tests.support.waiting import WAIT_S, eventually


def test_responses_come_in_order_and_then_the_end() -> None:
    """What is yielded is a response each, and the end says that nothing is left."""
    with engine_of(giving(1, 2, 3)) as (engine, _):
        caller = Caller()
        engine.submit(caller.request)
        outcome = caller.outcome()
        assert [caller.next() for _ in range(3)] == [1, 2, 3]
        assert (outcome.outputs, outcome.error) == (None, None)


def test_what_is_returned_ends_the_request() -> None:
    """The last response may come with the end."""
    with engine_of(giving(1, last=2)) as (engine, _):
        caller = Caller()
        engine.submit(caller.request)
        outputs = caller.outcome().outputs
        assert outputs is not None
        assert outputs["Y"].tolist() == [2]
        assert caller.got.qsize() == 1


def test_a_full_queue_refuses() -> None:
    """What is begun does not count, what waits does."""
    with engine_of(until_left, queue_requests=1) as (engine, _):
        running, waiting, refused = Caller(), Caller(), Caller()
        engine.submit(running.request)
        running.next()
        engine.submit(waiting.request)
        with pytest.raises(QueueFull):
            engine.submit(refused.request)
        for caller in (running, waiting):
            caller.request.cancel()


def test_a_deadline_that_passed_in_the_queue_is_never_begun() -> None:
    """A request that nobody waits for any more costs the model nothing."""
    with engine_of(until_left) as (engine, producers):
        running, late = Caller(), Caller()
        engine.submit(running.request)
        running.next()
        late.request.deadline = late.request.first_deadline = 0.0
        engine.submit(late.request)
        running.request.cancel()
        assert isinstance(late.outcome().error, DeadlineExceeded)
        assert len(producers[0].threads) == 1


def test_more_rows_than_are_taken_are_refused() -> None:
    """A request is not split: its model answers it as a whole."""
    with engine_of(giving(1)) as (engine, _):
        caller = Caller()
        caller.request.rows = 5
        with pytest.raises(InvalidRequest, match=r"batch-size must be <= 4 for 'fake'"):
            engine.submit(caller.request)


def test_closing_finishes_what_was_accepted() -> None:
    """Begun or waiting, each request is answered, and new ones are refused."""
    go_on = threading.Event()

    def respond(_request: Request, _left: threading.Event) -> Responses:
        yield value(1)
        assert go_on.wait(WAIT_S)
        return value(2)

    with engine_of(respond) as (engine, _):
        callers = [Caller() for _ in range(3)]
        for caller in callers:
            engine.submit(caller.request)
        callers[0].next()
        clean: list[bool] = []
        closing = threading.Thread(target=lambda: clean.append(engine.close(WAIT_S)))
        closing.start()

        def is_refused() -> bool:
            try:
                engine.submit(extra.request)
            except ShuttingDown:
                return True
            return False

        extra = Caller()
        eventually(is_refused, "new requests are refused")
        go_on.set()
        for caller in callers:
            assert caller.outcome().outputs is not None
        closing.join(WAIT_S)
        assert clean == [True]


def test_closing_stops_what_does_not_end() -> None:
    """At the time-out what goes on and what waits ends with ShuttingDown, and close says so."""
    with engine_of(until_left) as (engine, producers):
        running, waiting = Caller(), Caller()
        engine.submit(running.request)
        running.next()
        engine.submit(waiting.request)
        assert engine.close(0.0) is False
        for caller in (running, waiting):
            assert isinstance(caller.outcome().error, ShuttingDown)
        assert producers[0].closed_by


def test_a_model_that_cannot_be_made_is_a_load_error() -> None:
    """Instances that were made are closed again."""
    made: list[FakeProducer] = []
    lock = threading.Lock()

    def make() -> Producer:
        with lock:
            if made:
                raise LoadError("no second one")
            made.append(FakeProducer(giving(1)))
            return made[0]

    closed: list[bool] = []
    engine = ResponseEngine(
        "fake",
        make,
        SchedulerConfig(BatchPolicy(max_rows=1), instances=2),
        decoupled=True,
        on_closed=lambda: closed.append(True),
    )
    with pytest.raises(LoadError, match="no second one"):
        engine.start()
    assert made[0].closed_by
    assert closed == [True]


def test_statistics_count_a_request_once_and_each_response() -> None:
    """A request with two responses and an empty end is one success of one row."""
    with engine_of(giving(1, 2)) as (engine, _):
        caller = Caller()
        engine.submit(caller.request)
        caller.outcome()
        totals = engine.stats.snapshot()
    assert (totals.rows, totals.queue_ns.count, totals.failed) == (1, 1, 0)
    counted = {place: (r.count, r.empty) for place, r in totals.responses.items()}
    assert counted == {0: (1, 0), 1: (1, 0), 2: (0, 1)}


def test_one_answer_a_request_is_not_counted_by_place() -> None:
    """Models that are not decoupled have no response statistics."""
    with engine_of(giving(last=1), decoupled=False) as (engine, _):
        caller = Caller()
        engine.submit(caller.request)
        assert caller.outcome().outputs is not None
        assert engine.stats.snapshot().responses == {}
