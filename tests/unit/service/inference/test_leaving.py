"""Callers who leave between two looks at their request, while it waits: nobody else is hurt."""

import queue

import pytest

from service.inference.admission import SchedulerConfig
from service.inference.costs import Costs
from service.inference.policy import BatchPolicy
from service.inference.request import Outcome, Request
from service.inference.scheduler import Scheduler
from service.inference.waitlist import Waitlist
from tests.support.fake import FakeBackend, row
from tests.support.leaving import LeavingRequest
from tests.support.waiting import WAIT_S, eventually

LOOKS = pytest.mark.parametrize("looks", range(8))


def leaving(looks: int) -> LeavingRequest:
    """Return a request that is alone of its shape."""
    return LeavingRequest(row(1, width=3), ("Y",), rows=1, on_end=lambda _: None, looks=looks)


def answered(scheduler: Scheduler) -> bool:
    """Tell whether another request is answered."""
    ends: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    scheduler.submit(Request(row(2), ("Y",), rows=1, on_end=ends.put))
    return ends.get(timeout=WAIT_S).error is None


@LOOKS
def test_thread_goes_on_when_a_caller_leaves(looks: int) -> None:
    """Others are served, and no batch counts as running that nobody is in."""
    scheduler = Scheduler("m", FakeBackend(is_open=True), SchedulerConfig(BatchPolicy(4)))
    gone = leaving(looks)
    scheduler.submit(gone)
    scheduler.start()
    assert answered(scheduler)
    gone.join()
    eventually(lambda: scheduler.batches_in_progress == 0, "no batch runs")
    assert scheduler.queue_depth == 0
    assert scheduler.close(WAIT_S)


@LOOKS
def test_flush_goes_on_when_a_caller_leaves(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So they are where the model is cheap enough to run on the caller's thread."""
    monkeypatch.setattr(Costs, "is_cheap", lambda *_: True)
    scheduler = Scheduler("m", FakeBackend(is_open=True), SchedulerConfig(BatchPolicy(4)))
    gone = leaving(looks)
    scheduler.submit(gone, deferred=True)
    scheduler.flush()
    gone.join()
    assert scheduler.batches_in_progress == scheduler.queue_depth == 0
    scheduler.start()
    assert answered(scheduler)
    assert scheduler.close(WAIT_S)


@LOOKS
def test_waitlist_goes_on_when_a_caller_leaves(looks: int) -> None:
    """Whose turn it is next has it, and nothing is left that waits."""
    waitlist = Waitlist("m", SchedulerConfig(BatchPolicy(4)))
    gone, other = leaving(looks), Request(row(2), ("Y",), rows=1, on_end=lambda _: None)
    gone.on_leave = waitlist.leave
    waitlist.add(gone, 0.0)
    assert waitlist.take() in (gone, None)
    gone.join()
    waitlist.add(other, 0.0)
    assert waitlist.take() is other
    assert len(waitlist) == 0
