"""Strategy `direct`: every sequence has a row of the batch for as long as it lives.

Rows of sequences without a step that may run are filled up to the highest one that has, and told
so by READY. Each instance of the model has rows of its own and runs one batch at a time.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from service.errors import DeadlineExceeded, RequestCancelled, RequestError
from service.inference.request import NO_TIMINGS, Key, Outcome, Request
from service.inference.scheduler import Scheduler
from service.inference.sequences.assembly import Assembly
from service.inference.sequences.rows import Hold, Ready, choose
from service.inference.sequences.runner import StepEnded, step_key, waited_ns
from service.inference.sequences.sequence import Step
from service.repository.sequences import Direct
from service.tensors import Signature, Tensors


@dataclass(slots=True, eq=False)
class _Row:
    """A step in its row, with all that the graph takes."""

    step: Step
    ready: Ready
    inputs: Tensors


@dataclass(slots=True, eq=False)
class _Lane:
    """The rows of one instance.

    waiting: steps that may run, in the order of arrival. batch: that runs. due: when what waits
    is to run, or to be given up, at the latest.
    """

    waiting: list[_Row] = field(default_factory=list)
    batch: "_Batch | None" = None
    due: float = math.inf


class DirectRunner:
    """Runs steps in the rows of their sequences; see Runner."""

    def __init__(
        self,
        scheduler: Scheduler,
        assembly: Assembly,
        visible: Signature,
        policy: Direct,
        *,
        lanes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """visible: what clients send. lanes: instances of the model."""
        self.scheduler = scheduler
        self.assembly = assembly
        self._visible = visible
        self._policy = policy
        self._rows = scheduler.max_rows
        self._clock = clock
        self._lock = threading.Lock()
        self._lanes = [_Lane() for _ in range(lanes)]  # under _lock
        self._ended: StepEnded = lambda _step, _outcome: None
        self._ring: Callable[[], None] = lambda: None

    @property
    def wakes_at(self) -> float:
        """Return the time at which `flush` is to be called at the latest; math.inf: never."""
        return min(lane.due for lane in self._lanes)

    def bind(self, ended: StepEnded, ring: Callable[[], None]) -> None:
        """Set what is told the end of each step, and that `wakes_at` is sooner."""
        self._ended, self._ring = ended, ring

    def start(self, step: Step, given: Tensors, *, deferred: bool) -> None:
        """Let a step run with the next batch of its lane; see Runner.start."""
        lane, row = divmod(step.slot, self._rows)
        inputs, added = self.assembly.inputs(step, given)
        key = (*step_key(self._visible, step.request, given), *added)
        ready = Ready(row, key, self._clock())
        with self._lock:
            self._lanes[lane].waiting.append(_Row(step, ready, inputs))
        if step.request.ended:
            self.stop(step)
        elif not deferred:
            self._advance(self._lanes[lane], deferred=False)

    def stop(self, step: Step) -> None:
        """End a step that nobody waits for; a batch in which nobody's is left is stopped."""
        stopped: _Batch | None = None
        with self._lock:
            lane = self._lanes[step.slot // self._rows]
            lane.waiting = [row for row in lane.waiting if row.step is not step]
            if not lane.waiting:
                lane.due = math.inf
            batch = lane.batch
            if batch is not None and batch.drop(step) and not batch.members:
                stopped = batch
        self._ended(step, Outcome(None, RequestCancelled(), NO_TIMINGS))
        if stopped is not None:
            stopped.cancel()

    def flush(self) -> None:
        """Run what may run."""
        for lane in self._lanes:
            if lane.waiting:
                self._advance(lane, deferred=True)
        self.scheduler.flush()

    def hurry(self) -> None:
        """Let what is held run at once, on the thread that looks at the clock, and hold no more."""
        with self._lock:
            self._policy = Direct()
            for lane in self._lanes:
                if lane.waiting:
                    lane.due = self._clock()
        self.scheduler.hurry()
        self._ring()

    def _advance(self, lane: _Lane, *, deferred: bool) -> None:
        """Run the next batch of a lane, if nothing of it runs and it is time."""
        now = self._clock()
        with self._lock:
            late = [row for row in lane.waiting if _is_late(row.step, now)]
            if late:
                lane.waiting = [row for row in lane.waiting if row not in late]
            batch = self._next_batch(lane, now)
        for row in late:
            self.scheduler.stats.record_failure(int((now - row.step.arrived) * 1e9))
            self._ended(row.step, Outcome(None, DeadlineExceeded(), NO_TIMINGS))
        if batch is None:
            if lane.due < math.inf:
                self._ring()
            return
        try:
            self.scheduler.submit(batch, deferred=deferred)
        except RequestError as error:
            batch.fail(error)

    def _next_batch(self, lane: _Lane, now: float) -> "_Batch | None":
        lane.due = math.inf
        if lane.batch is not None or not lane.waiting:
            return None
        ready = [row.ready for row in lane.waiting]
        choice = choose(self._policy, self._rows, ready, now)
        if isinstance(choice, Hold):
            lane.due = min(choice.until, *(_leaves_at(row.step) for row in lane.waiting))
            return None
        taken = [lane.waiting[place] for place in choice.places]
        batch = _Batch(self, taken, partial(self._batch_ended, lane))  # may want for memory
        lane.waiting = [row for row in lane.waiting if row not in taken]
        lane.batch = batch
        return batch

    def _batch_ended(self, lane: _Lane, outcome: Outcome) -> None:
        batch = lane.batch
        if batch is None:
            return
        with self._lock:
            rows, batch.members = batch.members, []
            lane.batch = None
        for row in rows:
            self._row_ended(row, batch, outcome)
        self._advance(lane, deferred=outcome.error is None)

    def _single_ended(self, lane_batch: "_Batch", row: _Row, outcome: Outcome) -> None:
        """Note the end of a step that ran alone because its batch failed."""
        with self._lock:
            is_live = lane_batch.drop(row.step)
            is_last = not lane_batch.members
        if is_live:
            self._row_ended(row, lane_batch, outcome)
        if is_last:
            lane_batch.fail(outcome.error or RequestCancelled())

    def _row_ended(self, row: _Row, batch: Request, outcome: Outcome) -> None:
        if outcome.outputs is not None:
            queue_ns = outcome.timings.queue_ns + waited_ns(row.step, batch)
            timings = replace(outcome.timings, queue_ns=queue_ns)
            outcome = Outcome(self._outputs_of(row, outcome.outputs), None, timings)
        self._ended(row.step, outcome)

    def _outputs_of(self, row: _Row, outputs: Tensors) -> Tensors:
        if not self._visible.batched:
            return outputs
        at = row.ready.row
        return {name: array[at : at + 1] for name, array in outputs.items()}

    def _inputs_of(self, rows: Sequence[_Row]) -> tuple[Tensors, int]:
        """Return the inputs of a batch with these rows, and how many rows it has."""
        if not self._visible.batched:
            return rows[0].inputs, 1
        by_row = {row.ready.row: row.inputs for row in rows}
        idle = self.assembly.idle_inputs(rows[0].inputs)
        all_rows = [by_row.get(row, idle) for row in range(max(by_row) + 1)]
        joined = {name: np.concatenate([one[name] for one in all_rows]) for name in idle}
        return joined, len(all_rows)

    def batch_parts(self, rows: Sequence[_Row]) -> tuple[Tensors, tuple[str, ...], int, Key]:
        """Return inputs, outputs, rows and key of a request that runs these rows."""
        wanted = dict.fromkeys(name for row in rows for name in row.step.request.outputs)
        inputs, count = self._inputs_of(rows)
        return inputs, self.assembly.outputs(tuple(wanted)), count, rows[0].ready.key

    def single(self, batch: "_Batch", row: _Row) -> Request:
        """Return a request that runs a row of a batch that failed, alone and in its place."""
        inputs, outputs, count, key = self.batch_parts([row])
        on_end = partial(self._single_ended, batch, row)
        request = Request(inputs, outputs, rows=count, on_end=on_end, key=key, size=0)
        request.idle_rows = count - 1
        request.arrived, request.came = batch.arrived, row.step.arrived
        return request


class _Batch(Request):
    """A request that stands for those of its rows. members: whose callers still wait."""

    __slots__ = ("_runner", "_steps", "members")

    def __init__(
        self, runner: DirectRunner, rows: list[_Row], on_end: Callable[[Outcome], None]
    ) -> None:
        inputs, outputs, count, key = runner.batch_parts(rows)
        super().__init__(
            inputs, outputs, rows=count, on_end=on_end, count=len(rows), key=key, size=0
        )
        self.idle_rows = count - len(rows)
        self._runner = runner
        self._steps = [row.step for row in rows]
        self.members = rows

    def drop(self, step: Step) -> bool:
        """Take out the row of a step; False if it is not there."""
        kept = [row for row in self.members if row.step is not step]
        is_there = len(kept) < len(self.members)
        self.members = kept
        return is_there

    def waits(self, queue_ns: int) -> Sequence[tuple[int, int]]:
        """Return how long each step has waited; see Request.waits."""
        waiting = [step for step in self._steps if not step.request.ended]
        return [(queue_ns + waited_ns(step, self), 1) for step in waiting]

    def singles(self) -> Sequence[Request]:
        """Return a request for each row."""
        return [self._runner.single(self, row) for row in self.members]


def _leaves_at(step: Step) -> float:
    deadline = step.request.deadline
    return math.inf if deadline is None else deadline


def _is_late(step: Step, now: float) -> bool:
    return _leaves_at(step) <= now
