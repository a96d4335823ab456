"""The engine for responses: callers who leave, and models that fail."""

import queue
import threading

import pytest

from service.errors import InferenceFailed, InvalidRequest, RequestCancelled
from service.inference.producer import Responses
from service.inference.request import Request
from tests.support.producers import Caller, Respond, endless, engine_of, until_left, value
from tests.support.waiting import WAIT_S, eventually


def endless_until_freed(freed: threading.Event) -> Respond:
    """Return a model that goes on for ever, and tells when it has been made to let go."""

    def respond(request: Request, left: threading.Event) -> Responses:
        try:
            yield from endless(request, left)
        finally:
            freed.set()
        return None

    return respond


@pytest.mark.parametrize("has_room", [True, False])
def test_a_request_that_is_left_is_stopped_where_it_yields(*, has_room: bool) -> None:
    """Its generator is closed, so that what it holds is freed, in turn or put aside."""
    freed = threading.Event()
    with engine_of(endless_until_freed(freed)) as (engine, _):
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

    def refuse(_outputs: object) -> bool:
        raise InvalidRequest("too large")

    with engine_of(endless_until_freed(freed)) as (engine, _):
        caller = Caller()
        caller.request.on_response = refuse
        engine.submit(caller.request)
        assert str(caller.outcome().error) == "too large"
        assert freed.wait(WAIT_S)
