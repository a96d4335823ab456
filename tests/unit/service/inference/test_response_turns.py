"""The engine for responses: whose turn it is, room for answers, and which instance."""

import threading

from service.inference.producer import Responses
from service.inference.request import Request
from tests.support.producers import Caller, endless, engine_of, giving, until_left


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
