"""Bundles that wait, that callers leave, and that are turned back."""

from typing import Any, cast
from unittest.mock import MagicMock

from service.rpc.dispatch import Dispatcher
from service.transport.seam import Code, Event, Kind
from tests.support.bench import occupy
from tests.support.bundle_rig import (
    ROW_BYTES,
    Exchange,
    Rig,
    assert_rows,
    calls_of,
    infer_message,
    rig,
    wait,
)
from tests.support.bundles import FakeBundle, FakeCall, Member
from tests.support.waiting import WAIT_S


def test_who_leaves_the_queue_is_not_computed() -> None:
    """A caller who leaves while the bundle waits frees its places, and its row is not run."""
    with rig() as r:
        occupy(r.made)
        bundle = r.bundle(3, 4, 5)
        calls = calls_of(bundle)
        r.serve(bundle)
        assert r.made.scheduler.queue_depth == 3
        calls[1].has_left = True
        r.service.shrink(bundle)
        assert r.made.scheduler.queue_depth == 2
        r.made.backend.permit(2)
        wait(calls[0], calls[2])
        assert r.made.backend.batches[1:] == [[3, 5]]
    assert_rows([calls[0], calls[2]], 3, 5)
    assert r.outcomes() == {"OK": 2, "CANCELLED": 1}


def test_who_leaves_unnoticed_is_not_computed() -> None:
    """Who has left when the bundle is run is taken out, though nobody has said so yet."""
    with rig() as r:
        occupy(r.made)
        bundle = r.bundle(3, 4)
        calls = calls_of(bundle)
        r.serve(bundle)
        calls[0].has_left = True
        r.made.backend.permit(2)
        wait(calls[1])
        assert r.made.backend.batches[1:] == [[4]]
    assert_rows(calls[1:], 4)
    assert r.outcomes() == {"OK": 1, "CANCELLED": 1}


def test_a_bundle_that_all_have_left_takes_no_place() -> None:
    """When the last caller leaves while the bundle waits, its places are free at once."""
    with rig() as r:
        occupy(r.made)
        bundle = r.bundle(3, 4)
        r.serve(bundle)
        for call in calls_of(bundle):
            call.has_left = True
        r.service.shrink(bundle)
        assert r.made.scheduler.queue_depth == 0
        r.service.shrink(bundle)  # told again, when it is gone
        r.made.backend.permit()
    assert r.made.backend.batches == [[100]]
    assert r.outcomes() == {"CANCELLED": 2}


def test_the_lane_tells_of_calls_that_were_finished_here() -> None:
    """Bundles that shrank because a stream was ended by an error are freed likewise."""
    with rig() as r:
        occupy(r.made)
        bundle = r.bundle(3, 4)
        r.serve(bundle)
        calls_of(bundle)[0].has_left = True
        r.lane.left = [bundle]
        r.service.free_shrunk()
        assert r.made.scheduler.queue_depth == 1
        r.made.backend.open()


def test_a_full_queue_turns_a_bundle_back() -> None:
    """A bundle takes as many places as it has requests; one that finds too few is not touched."""
    with rig(queue_requests=5) as r:
        occupy(r.made)
        first, second = r.bundle(3, 4, 5), r.bundle(6, 7, 8)
        calls = calls_of(first)
        r.serve(first)
        assert not r.service.submit_bundle(second)
        assert r.made.scheduler.queue_depth == 3
        assert [event.message for event in second.events()] == [
            infer_message(6),
            infer_message(7),
            infer_message(8),
        ]
        calls[0].has_left = True
        r.service.shrink(first)
        third = r.bundle(6, 7, 8)
        calls += calls_of(third)
        r.serve(third)
        assert r.made.scheduler.queue_depth == 5
        r.made.backend.open()
        wait(*calls[1:])
    assert_rows(calls[1:], 4, 5, 6, 7, 8)


def test_a_bundle_counts_its_bytes() -> None:
    """The bound on bytes that wait knows what is in a bundle, and what is no longer."""
    with rig(queue_bytes=5 * ROW_BYTES) as r:
        occupy(r.made)
        first, second = r.bundle(3, 4, 5), r.bundle(6, 7, 8)
        calls = [*calls_of(first), *calls_of(second)]
        r.serve(first)
        assert not r.service.submit_bundle(second)
        calls[0].has_left = True
        r.service.shrink(first)
        r.serve(second)
        r.made.backend.open()
        wait(*calls[1:])
    assert_rows(calls[1:], 4, 5, 6, 7, 8)


def test_the_last_deadline_ends_a_bundle_in_the_queue() -> None:
    """While one caller of a bundle may still wait it is run; after the last deadline it is not."""
    with rig() as r:
        occupy(r.made)
        alive, over = r.bundle(3, 4, deadlines=(1, 10)), r.bundle(5, 6, deadlines=(1, 2))
        living, late = calls_of(alive), calls_of(over)
        r.serve(alive, over)
        r.made.clock.advance(5)
        r.made.backend.permit(2)
        wait(*living, *late)
        assert r.made.backend.batches[1:] == [[3, 4]]
    assert_rows(living, 3, 4)
    assert [[code for code, _ in call.ends] for call in late] == [[Code.DEADLINE_EXCEEDED]] * 2
    assert r.outcomes() == {"OK": 2, "DEADLINE_EXCEEDED": 2}
    assert r.made.scheduler.stats.snapshot().failed == 2


def test_the_first_deadline_decides_on_admission() -> None:
    """A bundle one of whose callers cannot be served in time is turned back."""
    with rig() as r:
        r.made.backend.open()
        for value in range(8):  # so that the cost of a run is known
            r.made.submit(value)
            r.made.outcome(value)
        r.made.backend.shut()
        r.made.backend.batches.clear()
        occupy(r.made)
        r.made.submit(50)
        assert not r.service.submit_bundle(r.bundle(3, 4, deadlines=(0, 100)))
        bundle = r.bundle(3, 4, deadlines=(100, 100))
        calls = calls_of(bundle)
        r.serve(bundle)
        r.made.backend.open()
        wait(*calls)


def test_a_default_deadline_holds_for_bundles() -> None:
    """Callers without a deadline get that of the server, and others keep theirs."""
    with rig(default_deadline_s=3600) as r:
        occupy(r.made)
        without, with_one = r.bundle(3), r.bundle(4, deadlines=(7,))
        r.serve(without, with_one)
        assert without.owner.deadline > r.made.clock.now
        assert with_one.owner.deadline == r.made.clock.now + 7
        assert without.owner.deadline != with_one.owner.deadline
        r.made.backend.open()


def test_a_plan_that_is_out_of_date_is_judged_anew() -> None:
    """After a change of the models a bundle is turned back, and the lane is taught again."""
    with rig() as r:
        r.manager.generation += 1
        assert not r.service.submit_bundle(r.bundle(3))
        r.made.backend.open()
        exchange = Exchange()
        r.service.submit(infer_message(3), None, exchange)
        r.service.flush()
        assert exchange.done.wait(WAIT_S)
        assert len(r.lane.lessons) == 1  # the one from before was forgotten
        bundle = r.bundle(4)
        calls = calls_of(bundle)
        r.serve(bundle)
        wait(*calls)


def test_a_server_that_drains_takes_no_bundle() -> None:
    """While the server drains a bundle is turned back, so that each caller is told."""
    with rig() as r:
        r.service.draining = True
        bundle = r.bundle(3)
        assert not r.service.submit_bundle(bundle)
        assert bundle.count == 1


class OneBurst:
    """A transport that gives one burst and is closed."""

    name = "fake"
    lane = None

    def __init__(self, *events: Event) -> None:
        self._events = list(events)
        self.closed = False

    def take(self, max_events: int, timeout: float | None) -> list[Event]:
        """Return the burst."""
        del max_events, timeout
        self.closed = True
        return self._events


def dispatch(r: Rig, bundle: FakeBundle) -> None:
    """Let a dispatcher take a burst of one bundle, to the end of the burst."""
    dispatcher = Dispatcher([], MagicMock(), r.service, reflection=False)
    burst = OneBurst(Event(Kind.BUNDLE, cast("Any", None), bundle=cast("Any", bundle)))
    dispatcher.start(cast("Any", burst))
    dispatcher.join(WAIT_S)


def test_a_fault_in_one_member_strands_no_other() -> None:
    """Of a bundle that is turned back each request is judged, whatever becomes of another."""
    with rig() as r:
        calls = [FakeCall() for _ in range(3)]
        messages = [infer_message(3), infer_message(4, model="fault"), infer_message(5)]
        members = [
            Member(call, (), message=text) for call, text in zip(calls, messages, strict=True)
        ]
        r.manager.generation += 1
        r.made.backend.open()
        dispatch(r, FakeBundle(r.plan, members))
        wait(*calls)
    codes = [[code for code, _ in call.ends] for call in calls]
    assert codes == [[Code.OK], [Code.INTERNAL], [Code.OK]]


def test_of_a_bundle_that_is_turned_back_as_many_are_served_as_there_is_room_for() -> None:
    """A queue with two places left takes two requests of three, and refuses the third."""
    with rig(queue_requests=4) as r:
        occupy(r.made)
        r.made.submit_all(50, 51)
        bundle = r.bundle(3, 4, 5)
        calls = calls_of(bundle)
        dispatch(r, bundle)
        assert r.made.scheduler.queue_depth == 4
        ((code, _),) = calls[2].ends
        assert code is Code.RESOURCE_EXHAUSTED
        r.made.backend.open()
        wait(*calls)
    assert_rows(calls[:2], 3, 4)
    assert r.outcomes() == {"OK": 2, "RESOURCE_EXHAUSTED": 1}
