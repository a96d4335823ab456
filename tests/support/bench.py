"""A scheduler on a fake backend and a manual clock, with the outcomes of what is submitted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from service.inference.admission import SchedulerConfig
from service.inference.policy import BatchPolicy
from service.inference.queue import QueuePolicy
from service.inference.request import Outcome, Request
from service.inference.scheduler import Scheduler
from tests.support.fake import WAIT_S, FakeBackend, ManualClock, row


@dataclass
class Bench:
    """A scheduler, its backend, its clock, and the outcomes by value of the request."""

    scheduler: Scheduler
    backend: FakeBackend
    clock: ManualClock
    outcomes: dict[float, list[Outcome]] = field(default_factory=dict)
    told: threading.Condition = field(default_factory=threading.Condition)

    def submit(
        self,
        value: float,
        rows: int = 1,
        *,
        width: int = 2,
        deadline: float | None = None,
        priority: int = 0,
        timeout_us: int = 0,
        outputs: tuple[str, ...] = ("Y",),
    ) -> Request:
        """Submit a request whose rows are all value; deadline: seconds from now."""

        def on_end(outcome: Outcome) -> None:
            with self.told:
                self.outcomes.setdefault(value, []).append(outcome)
                self.told.notify_all()

        request = Request(
            row(value, rows, width),
            outputs,
            rows=rows,
            on_end=on_end,
            deadline=None if deadline is None else self.clock.now + deadline,
            priority=priority,
            timeout_us=timeout_us,
        )
        self.scheduler.submit(request)
        return request

    def submit_all(self, *values: float) -> list[Request]:
        """Submit a request for each value."""
        return [self.submit(value) for value in values]

    def outcome(self, value: float) -> Outcome:
        """Wait for the only outcome of a request."""
        with self.told:
            assert self.told.wait_for(lambda: value in self.outcomes, WAIT_S), f"no end of {value}"
            (only,) = self.outcomes[value]
            return only

    def error(self, value: float) -> Exception:
        """Wait for the error that a request ends with."""
        error = self.outcome(value).error
        assert error is not None
        return error

    def assert_answered(self, *values: float, rows: int = 1) -> None:
        """Fail unless each request got its own rows, times two."""
        for value in values:
            outputs = self.outcome(value).outputs
            assert outputs is not None, self.outcome(value).error
            assert np.array_equal(outputs["Y"], row(value * 2, rows)["X"])


@contextmanager
def bench(
    *,
    batch: BatchPolicy | None = None,
    queue: QueuePolicy | None = None,
    backend: FakeBackend | None = None,
    instances: int = 1,
    queue_requests: int = 100,
    queue_bytes: int = 1 << 20,
    start: bool = True,
) -> Iterator[Bench]:
    """Run a scheduler; at the end everything must have been answered once and be accounted for."""
    backend = backend or FakeBackend()
    clock = ManualClock()
    config = SchedulerConfig(
        batch or BatchPolicy(max_rows=4),
        queue or QueuePolicy(),
        instances=instances,
        queue_requests=queue_requests,
        queue_bytes=queue_bytes,
    )
    made = Bench(Scheduler("fake", backend, config, clock=clock), backend, clock)
    if start:
        made.scheduler.start()
    yield made
    backend.open()
    made.scheduler.close(WAIT_S)
    assert backend.closed == 1
    assert made.scheduler.queue_depth == 0
    assert all(len(outcomes) == 1 for outcomes in made.outcomes.values())


def occupy(made: Bench, value: float = 100.0) -> None:
    """Let a request stand at the backend's gate, so that what follows waits in the queue."""
    made.submit(value)
    made.backend.wait_for_batches(1)
