"""A slow model beside a fast one on the same ingress thread: the fast one never waits for it."""

import threading
from collections.abc import Callable, Sequence

import pytest

from service.inference.admission import SchedulerConfig
from service.inference.backend import Interrupt
from service.inference.policy import BatchPolicy
from service.inference.request import Outcome, Request, batch_key
from service.inference.scheduler import Scheduler
from service.tensors import Tensors
from tests.support.fake import BATCHED, WAIT_S, FakeBackend, row
from tests.support.waiting import eventually


class WatchedBackend(FakeBackend):
    """Notes the threads of its runs."""

    def __init__(self, *, is_open: bool) -> None:
        super().__init__(is_open=is_open)
        self.threads: set[int] = set()

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Note the thread, then stand at the gate."""
        self.threads.add(threading.get_ident())
        return super().run(inputs, outputs, interrupt)


class Model:
    """A scheduler on a backend with a gate. ended: the values of requests that were answered."""

    def __init__(self, *, is_open: bool) -> None:
        self.backend = WatchedBackend(is_open=is_open)
        self.scheduler = Scheduler("m", self.backend, SchedulerConfig(BatchPolicy(4)))
        self.scheduler.start()
        self.ended: list[float] = []

    def burst(self, *values: float) -> None:
        """Do what the ingress thread does with a burst: submit, then flush."""
        for value in values:
            self.scheduler.submit(
                Request(row(value), ("Y",), rows=1, on_end=self.noting(value)), deferred=True
            )
        self.scheduler.flush()

    def noting(self, value: float) -> Callable[[Outcome], None]:
        """Return the on_end of a request that notes its value."""
        return lambda outcome: self.ended.append(value) if outcome.error is None else None


def learnt(model: Model) -> None:
    """Run single requests until the scheduler takes the model for cheap."""
    key = batch_key(BATCHED, row(0))
    for _ in range(1000):  # a busy machine may make single runs slow
        if model.scheduler.runs_inline(key, 1):
            break
        count = len(model.ended)
        model.scheduler.submit(Request(row(0), ("Y",), rows=1, on_end=model.noting(0)))
        eventually(lambda count=count: len(model.ended) > count, "the run has ended")  # type: ignore[misc]
    assert model.scheduler.runs_inline(key, 1)
    model.ended.clear()
    model.backend.threads.clear()


@pytest.mark.parametrize("queued", [1, 4, 64])
def test_saturated_slow_model_holds_up_nobody(queued: int) -> None:
    """With a slow model at work and a queue behind it, the fast one is answered within its burst.

    The slow run never ends in this test, so that waiting for it in any way would fail it.
    """
    slow, fast = Model(is_open=False), Model(is_open=True)
    learnt(fast)
    ingress = threading.get_ident()
    for value in range(queued):
        slow.burst(value)
        fast.burst(value)
        assert fast.ended == list(range(value + 1))  # by the time that flush has returned
    assert fast.backend.threads == {ingress}
    slow.backend.wait_for_batches(1)
    assert slow.ended == []
    assert ingress not in slow.backend.threads
    slow.backend.open()
    eventually(lambda: len(slow.ended) == queued, "the slow model has caught up")
    assert ingress not in slow.backend.threads
    for model in (slow, fast):
        assert model.scheduler.close(WAIT_S)


def test_model_that_is_being_run_elsewhere_is_not_run_inline() -> None:
    """A cheap model whose thread is at work is left to it: the ingress thread goes on."""
    model = Model(is_open=True)
    learnt(model)
    model.backend.shut()
    model.scheduler.submit(Request(row(1), ("Y",), rows=1, on_end=model.noting(1)))
    eventually(lambda: model.backend.stands, "its thread runs")
    model.burst(2)  # returns although nothing passes the gate
    assert model.ended == []
    assert threading.get_ident() not in model.backend.threads
    model.backend.open()
    eventually(lambda: sorted(model.ended) == [1, 2], "all are answered")
    assert model.scheduler.close(WAIT_S)
