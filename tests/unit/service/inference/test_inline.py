"""Where a batch runs: on the thread that submitted it, or on one of the model's own."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from service.inference.admission import SchedulerConfig
from service.inference.backend import Interrupt
from service.inference.policy import BatchPolicy
from service.inference.request import Outcome, Request, batch_key
from service.inference.scheduler import Scheduler
from service.tensors import Signature, Tensors
from tests.support.fake import BATCHED, WAIT_S, row

RUNS_TO_KNOW = 8  # runs of a size that a scheduler wants to see before it trusts their mean
ROWS = (1, 2, 4)  # one of each size up to the next power of two


class Recorder:
    """Y is X; notes the thread of each run, which takes at least `seconds`."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.signature: Signature = BATCHED
        self.threads: list[int] = []
        self._seconds = seconds
        self._never = threading.Event()

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Note the thread and return X."""
        del interrupt
        self.threads.append(threading.get_ident())
        self._never.wait(self._seconds)
        return dict.fromkeys(outputs, inputs["X"])

    def close(self) -> None:
        """Do nothing."""


@contextmanager
def running(backend: Recorder, policy: BatchPolicy, patience: int = 0) -> Iterator[Scheduler]:
    """Give a started scheduler that has seen enough runs to know their mean.

    patience: further runs until the model counts as cheap.
    """
    scheduler = Scheduler("m", backend, SchedulerConfig(policy))
    scheduler.start()
    key = batch_key(BATCHED, row(0))
    for count in ROWS:
        for _ in range(RUNS_TO_KNOW):
            submit_rows(scheduler, count)
        for _ in range(patience):  # a busy machine may have made the first runs slow
            if not scheduler.runs_inline(key, count):
                submit_rows(scheduler, count)
    backend.threads.clear()
    yield scheduler
    assert scheduler.close(WAIT_S)


def submit_rows(scheduler: Scheduler, rows: int) -> None:
    """Run one request of so many rows on the model's own thread."""
    done = threading.Event()
    request = Request(row(0, rows), ("Y",), rows=rows, on_end=lambda _outcome: done.set())
    scheduler.submit(request)
    assert done.wait(WAIT_S)


def serve(scheduler: Scheduler, *, deferred: bool, count: int = 1) -> list[Outcome]:
    """Submit requests, flush if they were deferred, and wait for their ends."""
    outcomes: list[Outcome] = []
    done = threading.Semaphore(0)

    def on_end(outcome: Outcome) -> None:
        outcomes.append(outcome)
        done.release()

    for value in range(count):
        request = Request(row(value), ("Y",), rows=1, on_end=on_end)
        scheduler.submit(request, deferred=deferred)
    if deferred:
        scheduler.flush()
    for _ in range(count):
        assert done.acquire(timeout=WAIT_S)
    return outcomes


def test_a_cheap_idle_model_runs_on_the_thread_that_flushes() -> None:
    """Deferred requests for a cheap model are one batch on the caller's own thread."""
    backend = Recorder()
    with running(backend, BatchPolicy(8), patience=1000) as scheduler:
        outcomes = serve(scheduler, deferred=True, count=5)
        assert backend.threads == [threading.get_ident()]
        assert [o.outputs["Y"][0, 0] for o in outcomes if o.outputs] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("seconds", "policy"),
    [(0.002, BatchPolicy(8)), (0.0, BatchPolicy(8, max_delay_s=1e-4))],
    ids=["slow", "waits for more"],
)
def test_other_models_never_hold_up_the_thread_that_flushes(
    seconds: float, policy: BatchPolicy
) -> None:
    """A slow model, and one that waits for a fuller batch, run on threads of their own."""
    backend = Recorder(seconds)
    with running(backend, policy) as scheduler:
        serve(scheduler, deferred=True, count=3)
        assert threading.get_ident() not in backend.threads


def test_a_size_that_was_never_seen_runs_on_the_models_own_thread() -> None:
    """A model that is cheap for one row is not taken to be cheap for eight."""
    backend = Recorder()
    with running(backend, BatchPolicy(8), patience=1000) as scheduler:
        serve(scheduler, deferred=True, count=8)
        assert threading.get_ident() not in backend.threads


def test_the_first_runs_go_to_the_models_own_thread() -> None:
    """Nothing runs on the caller's thread before its run time is known."""
    backend = Recorder()
    scheduler = Scheduler("m", backend, SchedulerConfig(BatchPolicy(8)))
    scheduler.start()
    serve(scheduler, deferred=True)
    assert threading.get_ident() not in backend.threads
    assert scheduler.close(WAIT_S)
