"""Bundles while they run: on which thread, and what stops them."""

from collections.abc import Sequence

from service.rpc.bundles import ENDS_ON_ERROR
from service.rpc.methods import STREAM_INFER
from service.transport.seam import Code
from tests.support.bench import occupy
from tests.support.bundle_rig import (
    Exchange,
    Rig,
    assert_rows,
    calls_of,
    closes,
    infer_message,
    rig,
    wait,
)
from tests.support.bundles import FakeBundle, FakeCall
from tests.support.waiting import eventually


def test_who_leaves_during_the_run_shifts_no_rows() -> None:
    """A caller who leaves while the bundle runs gets nothing, and the others their own rows."""
    with rig() as r:
        before = r.made.scheduler.stats.snapshot().queue_ns.count
        bundle = r.bundle(3, 4, 5)
        calls = calls_of(bundle)
        r.serve(bundle)
        r.made.backend.wait_for_batches(1)
        calls[0].has_left = True
        r.service.shrink(bundle)
        r.made.backend.permit()
        wait(*calls[1:])
        assert r.made.backend.interrupted == 0
    assert_rows(calls[1:], 4, 5)
    assert calls[0].replies == []
    assert r.outcomes() == {"OK": 2, "CANCELLED": 1}
    assert r.made.scheduler.stats.snapshot().queue_ns.count - before == 2


def test_a_run_that_nobody_waits_for_is_stopped() -> None:
    """When the last caller of a bundle has left its run is interrupted."""
    with rig() as r:
        bundle = r.bundle(3, 4)
        calls = calls_of(bundle)
        r.serve(bundle)
        r.made.backend.wait_for_batches(1)
        for call in calls:
            call.has_left = True
        r.service.shrink(bundle)
        eventually(lambda: r.made.backend.interrupted == 1, "the run was stopped")
        eventually(lambda: not r.made.scheduler.batches_in_progress, "the run has ended")
        assert bundle.count == 0
    assert r.outcomes() == {"CANCELLED": 2}


def test_a_stream_that_an_error_ends_waits_for_nothing_else() -> None:
    """Another run for the stream is stopped, though the end of the stream was on its way."""
    with rig(instances=2) as r:
        r.made.backend.poison = {4}
        call = FakeCall(STREAM_INFER, metadata=(ENDS_ON_ERROR,))
        bundles = [r.bundle(4, calls=[call]) for _ in range(2)]
        for count, bundle in enumerate(bundles, start=1):
            r.serve(bundle)
            r.made.backend.wait_for_batches(count)
        r.lane.left = bundles
        r.made.backend.permit()
        eventually(lambda: r.made.backend.interrupted, "the run of the other one is stopped")
    assert [code for code, _ in call.ends][:1] == [Code.INTERNAL]
    assert call.replies == []


def test_who_leaves_a_bundle_that_is_run_one_by_one_stops_its_run() -> None:
    """The run of a single member is interrupted when its caller leaves; the next one is run."""
    with rig() as r:
        r.made.backend.poison = {3}
        bundle = r.bundle(3, 4, 5)
        parts: list[FakeBundle] = []
        split = bundle.split

        def noted() -> Sequence[FakeBundle]:
            parts.extend(split())
            return parts

        bundle.split = noted  # type: ignore[method-assign]
        calls = calls_of(bundle)
        r.made.backend.permit(2)
        r.serve(bundle)
        r.made.backend.wait_for_batches(3)
        calls[1].has_left = True
        r.service.shrink(parts[1])
        r.made.backend.permit()
        wait(calls[2])
        assert r.made.backend.interrupted == 1
    assert_rows(calls[2:], 5)
    assert r.outcomes() == {"OK": 1, "INTERNAL": 1, "CANCELLED": 1}


def test_who_has_left_before_the_retry_is_not_run_again() -> None:
    """After a joint run has failed, only those who still wait are run by themselves."""
    with rig() as r:
        r.made.backend.poison = {3}
        bundle = r.bundle(3, 4, 5)
        calls = calls_of(bundle)
        r.serve(bundle)
        r.made.backend.wait_for_batches(1)
        calls[1].has_left = True
        r.made.backend.permit(3)
        wait(calls[2])
        assert r.made.backend.batches == [[3, 4, 5], [3], [5]]
    assert_rows(calls[2:], 5)
    assert r.outcomes() == {"OK": 1, "INTERNAL": 1, "CANCELLED": 1}


def test_closing_ends_a_bundle_that_runs() -> None:
    """A bundle whose run outlasts the patience of a shutdown is answered once, and stopped."""
    with rig() as r:
        bundle = r.bundle(3, 4)
        calls = calls_of(bundle)
        r.serve(bundle)
        r.made.backend.wait_for_batches(1)
        closes(r)
        assert r.made.backend.interrupted == 1
    assert [[code for code, _ in call.ends] for call in calls] == [[Code.UNAVAILABLE]] * 2
    assert r.outcomes() == {"UNAVAILABLE": 2}


def test_closing_ends_a_bundle_that_is_run_one_by_one() -> None:
    """Members of a failed bundle that still wait for their own run are answered once as well."""
    with rig() as r:
        r.made.backend.poison = {3}
        bundle = r.bundle(3, 4, 5)
        calls = calls_of(bundle)
        r.made.backend.permit(2)  # all of them, and the first by itself
        r.serve(bundle)
        r.made.backend.wait_for_batches(3)
        closes(r)
    codes = [[code for code, _ in call.ends] for call in calls]
    assert codes == [[Code.INTERNAL], [Code.UNAVAILABLE], [Code.UNAVAILABLE]]
    assert r.made.backend.batches == [[3, 4, 5], [3], [4]]


def cheap(r: Rig, *bundles: FakeBundle) -> None:
    """Let the scheduler see that batches of as many rows are cheap, then shut the backend."""
    r.made.backend.open()
    for bundle in bundles:
        for _ in range(1000):  # a busy machine may make some runs slow
            if r.made.scheduler.runs_inline(r.plan.plan.key, bundle.count):
                break
            again = r.bundle(*[0.0] * bundle.count)
            calls = calls_of(again)
            r.serve(again)
            wait(*calls)
        assert r.made.scheduler.runs_inline(r.plan.plan.key, bundle.count)
    eventually(lambda: not r.made.scheduler.batches_in_progress, "all is quiet")
    r.made.backend.batches.clear()


def test_what_is_cheap_is_served_at_once() -> None:
    """A bundle with nothing ahead of it is answered before `submit_bundle` returns."""
    with rig() as r:
        bundle = r.bundle(3, 4)
        calls = calls_of(bundle)
        cheap(r, bundle)
        assert r.service.submit_bundle(bundle)
        assert_rows(calls, 3, 4)
        assert r.made.scheduler.queue_depth == r.made.scheduler.batches_in_progress == 0


def test_what_is_not_known_to_be_cheap_is_for_the_threads() -> None:
    """A bundle of a size that was not run before is submitted instead."""
    with rig() as r:
        bundle = r.bundle(3, 4)
        assert r.service.submit_bundle(bundle)
        assert r.made.scheduler.queue_depth == 2
        r.made.backend.open()
        r.service.flush()


def test_what_is_cheap_waits_its_turn() -> None:
    """A cheap bundle is not run here while another batch runs, or while something waits."""
    with rig() as r:
        running, waiting = r.bundle(3), r.bundle(4)
        calls = [*calls_of(running), *calls_of(waiting)]
        cheap(r, running)
        r.made.backend.shut()
        occupy(r.made)
        assert r.service.submit_bundle(running)  # a batch runs
        assert r.made.scheduler.queue_depth == 1
        r.service.flush()
        r.made.backend.open()
        wait(calls[0])
        eventually(lambda: not r.made.scheduler.batches_in_progress, "all is quiet")
        r.made.backend.batches.clear()
        exchange = Exchange()
        r.service.submit(infer_message(7), None, exchange)  # deferred: it waits for the flush
        assert r.service.submit_bundle(waiting)
        assert r.made.backend.batches == []
        r.service.flush()
        wait(calls[1])
        assert r.made.backend.batches[0][0] == 7


def test_a_closed_model_serves_no_bundle() -> None:
    """A cheap bundle for a model that was closed is turned back and not run."""
    with rig() as r:
        bundle = r.bundle(3)
        cheap(r, bundle)
        closes(r)
        assert not r.service.submit_bundle(bundle)
        assert r.made.backend.batches == []
        assert bundle.count == 1
