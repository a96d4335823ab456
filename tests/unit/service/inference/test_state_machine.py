"""Any order of submit, cancel, expire, fail, run and close answers each request exactly once."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from service.errors import (
    DeadlineExceeded,
    DeadlineUnmeetable,
    InferenceFailed,
    QueueFull,
    QueueTimeout,
    RequestCancelled,
    ShuttingDown,
)
from service.inference.admission import SchedulerConfig
from service.inference.policy import BatchPolicy
from service.inference.queue import LevelPolicy, QueuePolicy
from service.inference.request import Outcome, Request
from service.inference.scheduler import Scheduler
from tests.support.fake import WAIT_S, FakeBackend, ManualClock, row

_MAX_ROWS = 3
_QUEUE = 12
_CLOSE_AFTER = 10  # requests; a machine that closes at once shows little


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request to submit. deadline_s: from now."""

    rows: int
    width: int
    priority: int
    deadline_s: float | None
    timeout_us: int
    is_poison: bool
    deferred: bool


WANTED = st.builds(
    Wanted,
    rows=st.sampled_from([1, 1, 1, 2, 3, 7]),
    width=st.sampled_from([1, 1, 2]),
    priority=st.integers(0, 3),
    deadline_s=st.sampled_from([None, None, 2.0, 50.0]),
    timeout_us=st.sampled_from([0, 0, 1_000_000]),
    is_poison=st.sampled_from([False, False, False, True]),
    deferred=st.booleans(),
)


class SchedulerMachine(RuleBasedStateMachine):
    """Drives a scheduler by rules; between two rules it is at rest.

    At rest: a run stands at the backend's gate, or nothing that was accepted is unanswered. With
    one instance that says what every thread does, and what has not begun to run is known.
    """

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.backend = FakeBackend()
        self.clock = ManualClock()
        self.scheduler: Scheduler
        self.outcomes: dict[int, list[Outcome]] = {}  # of what was accepted, by value
        self.rows: dict[int, int] = {}
        self.cancelled: set[int] = set()
        self.too_late: set[int] = set()  # ended before their batch began: never to be run
        self.is_exact = True  # one thread at most runs batches
        self.threads: list[threading.Thread] = []
        self.is_closing = False
        self.clean: list[bool] = []
        self.refused_open = 0  # times that an open scheduler said it was shutting down
        self.next_value = 1

    @initialize(
        instances=st.integers(1, 2),
        timeout_s=st.sampled_from([0.0, 5.0]),
        rejects=st.booleans(),
        levels=st.integers(1, 3),
    )
    def start(self, instances: int, timeout_s: float, levels: int, *, rejects: bool) -> None:
        """Start a scheduler."""
        policy = QueuePolicy(levels, levels, LevelPolicy(timeout_s, rejects, overridable=True))
        config = SchedulerConfig(
            BatchPolicy(_MAX_ROWS), policy, instances=instances, queue_requests=_QUEUE
        )
        self.scheduler = Scheduler("fake", self.backend, config, clock=self.clock)
        self.scheduler.start()
        self.is_exact = instances == 1

    @rule(target=requests, wanted=st.lists(WANTED, min_size=1, max_size=6))
    def submit(self, wanted: list[Wanted]) -> Any:
        """Submit requests; a poisoned one makes its run fail."""
        entries = [self._submit(each) for each in wanted]
        self._rest()
        return multiple(*entries)

    @rule(entry=consumes(requests))
    def cancel(self, entry: tuple[int, Request]) -> None:
        """Let a caller leave."""
        value, request = entry
        has_run = self._has_run(value)
        if value in self.outcomes and request.cancel():
            self.cancelled.add(value)
            if self.is_exact and not has_run:
                self.too_late.add(value)
        self._rest()
        if self.is_exact and self.backend.stands:  # a run that nobody waits for was stopped
            assert any(not self.outcomes[int(value)] for value in self.backend.batches[-1])

    @rule(seconds=st.sampled_from([1.0, 3.0, 10.0]))
    def pass_time(self, seconds: float) -> None:
        """Let deadlines and queue time-outs pass."""
        self.clock.advance(seconds)

    @rule(runs=st.integers(1, 3))
    def finish_runs(self, runs: int) -> None:
        """Let runs at the gate pass, and what follows them."""
        for _ in range(runs):
            if self.backend.stands:
                self.backend.permit()
                self._rest()

    @precondition(lambda self: not self.is_closing and self.next_value > _CLOSE_AFTER)
    @rule()
    def close(self) -> None:
        """Begin to close, as a reload does with the old version."""
        self.is_closing = True
        self._spawn(lambda: self.clean.append(self.scheduler.close(WAIT_S)))

    @invariant()
    def nothing_is_told_twice(self) -> None:
        """Check that no request has two ends."""
        assert all(len(ends) <= 1 for ends in self.outcomes.values())

    @invariant()
    def bounds_hold(self) -> None:
        """Check the length of the queue."""
        if hasattr(self, "scheduler"):
            assert 0 <= self.scheduler.queue_depth <= _QUEUE

    @invariant()
    def batches_are_small(self) -> None:
        """Check that no run has more rows than allowed."""
        assert all(len(batch) <= _MAX_ROWS for batch in self.backend.batches)

    def teardown(self) -> None:
        """Close, and check every end."""
        if not hasattr(self, "scheduler"):
            return
        self.backend.open()
        if not self.is_closing:
            self.clean.append(self.scheduler.close(WAIT_S))
        for thread in self.threads:
            thread.join(WAIT_S)
        assert self.clean == [True]
        assert self.refused_open == 0
        assert self.backend.closed == 1
        assert self.scheduler.queue_depth == 0
        for value, ends in self.outcomes.items():
            assert len(ends) == 1, f"request {value} has {len(ends)} ends"
            self._check_end(value, ends[0])

    def _check_end(self, value: int, outcome: Outcome) -> None:
        runs = sum(batch.count(value) for batch in self.backend.batches)
        if outcome.error is None:
            assert outcome.outputs is not None
            expected = row(value * 2, self.rows[value], outcome.outputs["Y"].shape[1])
            assert np.array_equal(outcome.outputs["Y"], expected["X"])
            assert value not in self.backend.poison
        elif isinstance(outcome.error, InferenceFailed):
            assert value in self.backend.poison
        elif isinstance(outcome.error, RequestCancelled):
            assert value in self.cancelled
        else:
            assert isinstance(outcome.error, DeadlineExceeded | QueueTimeout)
            assert runs < self.rows[value]  # whole, or the parts that were left: not run
        if value in self.too_late:
            assert runs == 0

    def _told(self, value: int, outcome: Outcome) -> None:
        with self.backend.changed:
            self.outcomes[value].append(outcome)
            self.backend.changed.notify_all()

    def _submit(self, wanted: Wanted) -> tuple[int, Request]:
        value, self.next_value = self.next_value, self.next_value + 1
        deadline_s = wanted.deadline_s
        request = Request(
            row(value, wanted.rows, wanted.width),
            ("Y",),
            rows=wanted.rows,
            on_end=lambda outcome: self._told(value, outcome),
            deadline=None if deadline_s is None else self.clock.now + deadline_s,
            priority=wanted.priority,
            timeout_us=wanted.timeout_us,
        )
        if wanted.is_poison:
            self.backend.poison.add(value)
        self.outcomes[value], self.rows[value] = [], wanted.rows
        try:
            self.scheduler.submit(request, deferred=wanted.deferred)
        except (QueueFull, DeadlineUnmeetable):
            self._refused(value)
            return value, request
        except ShuttingDown:
            self._refused(value)
            self.refused_open += not self.is_closing
            return value, request
        if wanted.deferred:
            sizes = [1 << bits for bits in range(8)]
            cheap = [self.scheduler.runs_inline(request.key or (), size) for size in sizes]
            self.is_exact = self.is_exact and not any(cheap)
            self._spawn(self.scheduler.flush)  # which may run the model, and stand at the gate
        return value, request

    def _refused(self, value: int) -> None:
        """Forget a request; one that is refused has not ended."""
        assert self.outcomes.pop(value) == []

    def _spawn(self, work: Callable[[], object]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        self.threads.append(thread)

    def _has_run(self, value: int) -> bool:
        return any(value in batch for batch in self.backend.batches)

    def _rest(self) -> None:
        with self.backend.changed:
            assert self.backend.changed.wait_for(self._is_at_rest, WAIT_S)

    def _is_at_rest(self) -> bool:
        return self.backend.stands or all(self.outcomes.values())


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
