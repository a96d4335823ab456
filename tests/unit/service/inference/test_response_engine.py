"""The engine for responses: turns, parking, ends, cancellation, closing."""

import queue
import threading
from collections.abc import Callable

import pytest

from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidRequest,
    LoadError,
    QueueFull,
    RequestCancelled,
    ShuttingDown,
)
from service.inference.admission import SchedulerConfig
from service.inference.policy import BatchPolicy
from service.inference.producer import Producer, Responses
from service.inference.request import Request
from service.inference.responses import ResponseEngine
from tests.support.producers import Caller, FakeProducer, engine_of, value
from tests.support.waiting import WAIT_S, eventually


def endless(_request: Request, _left: threading.Event) -> Responses:
    """Count for ever."""
    number = 0
    while True:
        yield value(number)
        number += 1


def until_left(_request: Request, left: threading.Event) -> Responses:
    """Give one response, then wait until nobody waits."""
    yield value(0)
    assert left.wait(WAIT_S)
    raise RequestCancelled


def giving(
    *numbers: int, last: int | None = None
) -> Callable[[Request, threading.Event], Responses]:
    """Return a model that gives these numbers, and one that ends them."""

    def respond(_request: Request, _left: threading.Event) -> Responses:
        for number in numbers:
            yield value(number)
        return None if last is None else value(last)

    return respond


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


def test_requests_take_turns() -> None:
    """A model that never ends does not keep its only instance from another request."""
    with engine_of(endless) as (engine, _):
        first, second = Caller(), Caller()
        engine.submit(first.request)
        first.next()
        engine.submit(second.request)
        assert [second.next() for _ in range(3)] == [0, 1, 2]
        for caller in (first, second):
            caller.request.cancel()


def test_a_waiting_request_is_not_held_up_by_one_that_goes_on() -> None:
    """With as many endless requests as an instance likes, a short one still ends."""

    def respond(request: Request, left: threading.Event) -> Responses:
        yield from (endless if request.id else giving(7))(request, left)
        return None

    with engine_of(respond) as (engine, _):
        endless_ones = [Caller() for _ in range(5)]
        for caller in endless_ones:
            caller.request.id = "endless"
            engine.submit(caller.request)
        short = Caller()
        engine.submit(short.request)
        assert short.next() == 7
        short.outcome()
        for caller in endless_ones:
            caller.request.cancel()


def test_without_room_only_that_request_stops() -> None:
    """It is not asked for more until there is room; its instance serves others meanwhile."""
    with engine_of(endless) as (engine, _):
        slow, quick = Caller(has_room=False), Caller()
        engine.submit(slow.request)
        assert slow.next() == 0
        engine.submit(quick.request)
        assert [quick.next() for _ in range(50)] == list(range(50))
        assert slow.got.empty()
        slow.request.resume()
        assert slow.next() == 1
        assert [quick.next() for _ in range(50)] == list(range(50, 100))
        assert slow.got.empty()
        for caller in (slow, quick):
            caller.request.cancel()


def test_room_that_comes_before_the_request_is_put_aside_counts() -> None:
    """The news may overtake the answer that there is none."""
    with engine_of(giving(1, 2)) as (engine, _):
        caller = Caller()

        def respond(_outputs: object) -> bool:
            caller.request.resume()  # as the network may, while `send` returns
            return False

        caller.request.on_response = respond
        engine.submit(caller.request)
        assert caller.outcome().error is None


@pytest.mark.parametrize("has_room", [True, False])
def test_a_request_that_is_left_is_stopped_where_it_yields(*, has_room: bool) -> None:
    """Its generator is closed, so that what it holds is freed, in turn or put aside."""
    freed = threading.Event()

    def respond(request: Request, left: threading.Event) -> Responses:
        try:
            yield from endless(request, left)
        finally:
            freed.set()
        return None

    with engine_of(respond) as (engine, _):
        caller = Caller(has_room=has_room)
        engine.submit(caller.request)
        caller.next()
        assert engine.batches_in_progress == 1
        caller.request.cancel()
        assert freed.wait(WAIT_S)
        assert isinstance(caller.outcome().error, RequestCancelled)
        eventually(lambda: engine.batches_in_progress == 0, "nothing goes on")


def test_a_model_that_waits_is_told_that_its_caller_has_left() -> None:
    """It need not come to its next response to know."""
    with engine_of(until_left) as (engine, _):
        caller = Caller()
        engine.submit(caller.request)
        caller.next()
        caller.request.cancel()
        eventually(lambda: engine.batches_in_progress == 0, "the model has stopped")


def test_a_request_that_is_left_before_its_turn_is_never_begun() -> None:
    """It costs the model nothing, and its place in the queue is free at once."""
    begun: list[str] = []

    def respond(request: Request, left: threading.Event) -> Responses:
        begun.append(request.id)
        yield from until_left(request, left)
        return None

    with engine_of(respond) as (engine, _):
        first, second = Caller(), Caller()
        engine.submit(first.request)
        first.next()
        engine.submit(second.request)
        assert engine.queue_depth == 1
        second.request.cancel()
        assert engine.queue_depth == 0
        second.outcome()
        first.request.cancel()
        first.outcome()
    assert begun == [""]


def test_idle_instances_get_the_next_requests() -> None:
    """As many requests as instances are begun, though none of them comes to an end."""
    with engine_of(until_left, instances=4) as (engine, producers):
        callers = [Caller() for _ in range(4)]
        for caller in callers:
            engine.submit(caller.request)
        for caller in callers:
            caller.next()
        assert len({thread for producer in producers for thread in producer.threads}) == 4
        for caller in callers:
            caller.request.cancel()


def test_an_instance_is_used_and_closed_by_one_thread() -> None:
    """Models need no locks, and may keep what belongs to a thread."""
    with engine_of(giving(1), instances=3) as (engine, producers):
        callers = [Caller() for _ in range(30)]
        for caller in callers:
            engine.submit(caller.request)
        for caller in callers:
            caller.outcome()
    for producer in producers:
        assert {*producer.threads, producer.closed_by} == {producer.closed_by}


def test_the_models_own_error_ends_the_request() -> None:
    """A RequestError reaches the caller as it is, after the responses before it."""

    def respond(_request: Request, _left: threading.Event) -> Responses:
        yield value(1)
        raise InvalidRequest("too much")

    with engine_of(respond) as (engine, _):
        caller = Caller()
        engine.submit(caller.request)
        assert str(caller.outcome().error) == "too much"
        assert caller.next() == 1
        assert engine.stats.snapshot().responses[1].failed == 1


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_any_other_error_is_a_failure_with_an_id(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The caller gets an id and no text, the log has both, and the instance serves on."""

    def respond(request: Request, _left: threading.Event) -> Responses:
        if not request.id:
            raise kind("secret")
        yield value(1)
        return None

    with engine_of(respond) as (engine, _):
        bad, good = Caller(), Caller()
        good.request.id = "good"
        engine.submit(bad.request)
        error = bad.outcome().error
        assert isinstance(error, InferenceFailed)
        assert "secret" not in str(error)
        engine.submit(good.request)
        assert good.next() == 1
    error_id = str(error).partition("error id ")[2].removesuffix(")")
    (record,) = [record for record in caplog.records if error_id in record.getMessage()]
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


def test_a_failure_is_counted_before_it_is_told() -> None:
    """Who asks for statistics as soon as he has the error finds it in them."""

    def respond(_request: Request, _left: threading.Event) -> Responses:
        yield value(1)
        raise InvalidRequest("too much")

    counted: queue.SimpleQueue[int] = queue.SimpleQueue()
    with engine_of(respond) as (engine, _):
        engine.submit(
            Request(
                {}, ("Y",), rows=1, on_response=lambda _: True,
                on_end=lambda _: counted.put(engine.stats.snapshot().failed),
            )
        )  # fmt: skip
        assert counted.get(timeout=WAIT_S) == 1


def test_a_model_that_says_it_was_cancelled_has_not_failed() -> None:
    """Its answer counts it as cancelled, and nothing counts it twice."""

    def respond(_request: Request, _left: threading.Event) -> Responses:
        yield value(1)
        raise RequestCancelled

    with engine_of(respond) as (engine, _):
        caller = Caller()
        engine.submit(caller.request)
        assert isinstance(caller.outcome().error, RequestCancelled)
        totals = engine.stats.snapshot()
        assert totals.failed == 0
        assert (totals.responses[1].failed, totals.responses[1].cancelled) == (0, 1)


def test_a_response_that_cannot_be_given_ends_its_request() -> None:
    """An answer that is too large, say, is the end of its request, and its model is stopped."""
    freed = threading.Event()

    def respond(request: Request, left: threading.Event) -> Responses:
        try:
            yield from endless(request, left)
        finally:
            freed.set()
        return None

    def refuse(_outputs: object) -> bool:
        raise InvalidRequest("too large")

    with engine_of(respond) as (engine, _):
        caller = Caller()
        caller.request.on_response = refuse
        engine.submit(caller.request)
        assert str(caller.outcome().error) == "too large"
        assert freed.wait(WAIT_S)


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
