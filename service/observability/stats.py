"""Counts and durations of one model version, cheap enough for the way of every request.

One batch is recorded under one lock. Readers get a consistent copy. Knows no exposition format:
metrics.py turns the copies into Prometheus families, rpc into ModelStatistics.
"""

import copy
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

# Upper bounds in nanoseconds: 50 us to 10 s, about 2.2 a step.
DURATION_BOUNDS_NS: Final = tuple(
    int(seconds * 1e9)
    for seconds in (
        50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3,
        500e-3, 1, 2.5, 5, 10,
    )
)  # fmt: skip
MAX_RESPONSES: Final = 1000  # places in a request that are told apart; the last one has the rest
BATCH_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

EndKind: TypeAlias = Literal["empty", "failed", "cancelled"]


class Histogram:
    """Counts by upper bound (inclusive), with an overflow bucket last, and a total."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: Sequence[int]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0

    def add(self, value: int, count: int = 1) -> None:
        """Count a value, count times."""
        self.buckets[bisect_left(self.bounds, value)] += count
        self.total += value * count

    @property
    def count(self) -> int:
        """Return how many values were counted."""
        return sum(self.buckets)


@dataclass(slots=True)
class BatchTotals:
    """Executions with one number of rows; durations in nanoseconds."""

    executions: int = 0
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """One execution; times in nanoseconds. idle_rows: those of its rows that are nobody's."""

    rows: int
    input_ns: int
    infer_ns: int
    output_ns: int
    idle_rows: int = 0


@dataclass(slots=True)
class ResponseTotals:
    """The responses that were n-th of their requests; durations in nanoseconds.

    empty: ends of requests without a response of their own. cancelled: ends because the caller had
    left. infer_ns: until the response was there. output_ns: until it was on its way.
    """

    count: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    failed: int = 0
    failed_ns: int = 0
    empty: int = 0
    empty_ns: int = 0
    cancelled: int = 0
    cancelled_ns: int = 0


@dataclass(slots=True)
class Totals:
    """Everything that is counted of one model version."""

    queue_ns: Histogram = field(default_factory=lambda: Histogram(DURATION_BOUNDS_NS))
    compute_ns: Histogram = field(default_factory=lambda: Histogram(DURATION_BOUNDS_NS))
    total_ns: Histogram = field(default_factory=lambda: Histogram(DURATION_BOUNDS_NS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(BATCH_BOUNDS))
    outcomes: Counter[str] = field(default_factory=Counter)
    failed_ns: int = 0
    failed: int = 0
    rows: int = 0
    input_ns: int = 0  # these three are summed over requests, as Triton does
    infer_ns: int = 0
    output_ns: int = 0
    last_inference_ms: int = 0
    batches: dict[int, BatchTotals] = field(default_factory=dict)
    responses: dict[int, ResponseTotals] = field(default_factory=dict)  # of models with several


@dataclass(frozen=True, slots=True)
class SequenceCounts:
    """How many sequences one model has and had.

    open, backlog: with and without a place, now. waiting: steps that wait for another one of
    their sequence. state_bytes: of all states. opened, reaped (idle for too long), replaced
    (started anew): ever.
    """

    open: int
    backlog: int
    waiting: int
    state_bytes: int
    opened: int
    reaped: int
    replaced: int


class ModelStats:
    """The totals of one model version. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals = Totals()

    def record_batch(self, timing: BatchTiming, waits: Sequence[tuple[int, int]]) -> None:
        """Record an execution that succeeded.

        waits: nanoseconds in the queue, and how many requests waited so long.
        """
        requests = sum([count for _, count in waits])
        compute_ns = timing.input_ns + timing.infer_ns + timing.output_ns
        with self._lock:
            totals = self._totals
            batch = totals.batches.setdefault(timing.rows, BatchTotals())
            batch.executions += 1
            batch.input_ns += timing.input_ns
            batch.infer_ns += timing.infer_ns
            batch.output_ns += timing.output_ns
            totals.batch_rows.add(timing.rows)
            totals.rows += timing.rows - timing.idle_rows
            totals.input_ns += timing.input_ns * requests
            totals.infer_ns += timing.infer_ns * requests
            totals.output_ns += timing.output_ns * requests
            totals.last_inference_ms = time.time_ns() // 1_000_000
            totals.compute_ns.add(compute_ns, requests)
            for waited, count in waits:
                totals.queue_ns.add(waited, count)
                totals.total_ns.add(waited + compute_ns, count)

    def record_failure(self, elapsed_ns: int, count: int = 1) -> None:
        """Record requests that were accepted and did not succeed."""
        with self._lock:
            self._totals.failed += count
            self._totals.failed_ns += elapsed_ns * count

    def record_response(self, index: int, infer_ns: int, output_ns: int) -> None:
        """Record the response with this place in its request, from 0."""
        with self._lock:
            totals = self._response(index)
            totals.count += 1
            totals.infer_ns += infer_ns
            totals.output_ns += output_ns

    def record_end(self, index: int, kind: EndKind, elapsed_ns: int) -> None:
        """Record the end of a request in the place of its next response."""
        with self._lock:
            totals = self._response(index)
            if kind == "empty":
                totals.empty += 1
                totals.empty_ns += elapsed_ns
            elif kind == "failed":
                totals.failed += 1
                totals.failed_ns += elapsed_ns
            else:
                totals.cancelled += 1
                totals.cancelled_ns += elapsed_ns

    def _response(self, index: int) -> ResponseTotals:
        return self._totals.responses.setdefault(min(index, MAX_RESPONSES - 1), ResponseTotals())

    def record_outcome(self, outcome: str, count: int = 1) -> None:
        """Count answered requests. outcome: name of their gRPC status."""
        with self._lock:
            self._totals.outcomes[outcome] += count

    def snapshot(self) -> Totals:
        """Return a copy that no longer changes."""
        with self._lock:
            return copy.deepcopy(self._totals)
