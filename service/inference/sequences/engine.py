"""The engine of a model with sequences: carries out what the table decides, and watches the clock.

A step becomes a request of an ordinary scheduler, with controls and states added; its end stores
the states, answers the client and starts the next step. One thread waits for the next deadline.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from service.errors import (
    InvalidRequest,
    RequestCancelled,
    RequestError,
    ShuttingDown,
    Unsupported,
    shown,
)
from service.inference.costs import RunCost
from service.inference.faults import logged_fault
from service.inference.request import NO_TIMINGS, Outcome, Request, SequenceStep, array_bytes
from service.inference.scheduler import Scheduler
from service.inference.sequences.endings import reason_of
from service.inference.sequences.runner import Runner, waited_ns
from service.inference.sequences.sequence import Changes, Limits, Step
from service.inference.sequences.table import Table
from service.observability.stats import ModelStats, SequenceCounts
from service.repository.sequences import Scope, SequenceSpec
from service.tensors import Signature, Tensors

_LOG = logging.getLogger(__name__)
_JOIN_S: Final = 5.0
_WARN_EVERY_S: Final = 60.0
_UNANSWERED: Final = "model %s: an answer could not be given"


class SequenceEngine:
    """An Engine whose requests belong to sequences; see Engine.

    A model that can also be called without is served by `plain` then.
    """

    def __init__(
        self,
        model: str,
        spec: SequenceSpec,
        signature: Signature,
        limits: Limits,
        runner: Runner,
        *,
        plain: Scheduler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """signature: of the requests of sequences. runner: started, and owned from now on."""
        self.spec = spec
        self.signature = signature
        self.hidden_inputs = frozenset(
            [state.input for state in spec.states] + [control.name for control in spec.controls]
        )
        self.stats: ModelStats = runner.scheduler.stats
        self._model = model
        self._runner = runner
        self._scheduler = runner.scheduler
        self._plain = plain
        self._assembly = runner.assembly
        self._clock = clock
        self._table = Table(model, limits)  # this and what follows: under _lock
        self._lock = threading.Lock()
        self._sooner = threading.Condition(self._lock)
        self._emptied = threading.Condition(self._lock)
        self._looks_at = math.inf  # when the thread looks by itself
        self._stops = False
        self._warns_from = -math.inf
        self._on_fewer: Callable[[], None] = lambda: None
        self._told_ended = 0  # sequences whose end `_on_fewer` was told of
        self._thread = threading.Thread(target=self._watch, name=f"{model}-sequences", daemon=True)
        runner.bind(self._ended, self._look_sooner)

    def start(self) -> None:
        """Start the thread that watches the clock."""
        self._thread.start()

    @property
    def max_rows(self) -> int:
        """Return the rows of the largest batch of requests that belong to no sequence."""
        return (self._plain or self._scheduler).max_rows

    @property
    def max_steps(self) -> int:
        """Return the rows of the largest batch of steps of sequences."""
        return self._scheduler.max_rows

    @property
    def queue_depth(self) -> int:
        """Return how many requests wait."""
        return self._table.waiting + sum(s.queue_depth for s in self._schedulers())

    @property
    def batches_in_progress(self) -> int:
        """Return how many batches run."""
        return sum(s.batches_in_progress for s in self._schedulers())

    @property
    def mean_run_s(self) -> float:
        """Return the running mean of the time of one step, else of one plain run, in seconds."""
        return next((s.mean_run_s for s in self._schedulers() if s.mean_run_s), 0.0)

    def run_costs(self) -> list[RunCost]:
        """Return what runs cost by size of the batch."""
        return [cost for scheduler in self._schedulers() for cost in scheduler.run_costs()]

    def counts(self) -> SequenceCounts:
        """Return how many sequences there are and were."""
        with self._lock:
            table = self._table
            return SequenceCounts(
                table.open,
                table.backlog,
                table.waiting,
                table.state_bytes,
                table.opened,
                table.reaped,
                table.replaced,
            )

    def submit(self, request: Request, *, deferred: bool = False) -> None:
        """Accept a valid request; see Engine.submit.

        Raises what Scheduler.submit does, InvalidRequest for a step of no sequence that is in
        progress and for states brought along that have other rows than the inputs,
        SequenceBacklogFull, and Unsupported where the state belongs to streams.
        """
        wanted = request.sequence
        if wanted is None:
            if self._plain is None:
                raise self._without_id()
            if self._table.is_draining:
                raise ShuttingDown
            self._assembly.check_brought(request.inputs)
            self._plain.submit(request, deferred=deferred)
            return
        self._check(request, wanted)
        with self._lock:
            replaced = self._table.replaced
            step, changes = self._table.add(request, wanted, self._clock())
            request.on_leave = partial(self._left, step)
            replaced = self._table.replaced - replaced
            self._ring()
        if replaced:
            self._warn_of_start(wanted)
        if request.ended:  # its caller left before on_leave was set
            self._left(step, request)
        self._apply(changes, deferred=deferred)

    def serve_now(self, request: Request) -> bool:
        """Serve a request on this thread; see Engine.serve_now. No step of a sequence is."""
        return (
            self._plain is not None and request.sequence is None and self._plain.serve_now(request)
        )

    def shrink(self, request: Request) -> None:
        """Free the places of callers who have left; see Engine.shrink."""
        if self._plain is not None:
            self._plain.shrink(request)

    def flush(self) -> None:
        """Serve what was submitted deferred."""
        self._runner.flush()
        if self._plain is not None:
            self._plain.flush()

    def finish(self, scope: object) -> None:
        """End the sequences of a scope that sends no more, each as soon as it has no step."""
        with self._lock:
            changes = self._table.finish(scope, self._clock())
        self._apply(changes)

    def release(self, scope: object) -> None:
        """End every sequence of a scope that is over, and free its state."""
        with self._lock:
            changes = self._table.release(scope, self._clock())
        self._apply(changes)

    def hand_over(self, scope: object) -> bool:
        """Let go of a scope; tell whether its sequence without an id had not got to its END."""
        with self._lock:
            owes = self._table.owes(scope)
            changes = self._table.finish(scope, self._clock())
            self._table.forget(scope)
        self._apply(changes)
        return owes

    def succeed(self, before: "SequenceEngine", scope: object) -> None:
        """Serve a scope that the engine of a version which is over has served before.

        If its sequence without an id had not ended, the next request of it is told to start.
        """
        if before.hand_over(scope):
            with self._lock:
                self._table.inherit(scope)

    def is_busy(self, scope: object) -> bool:
        """Tell whether sequences of a scope are in progress; None: of any."""
        return not self._table.is_empty if scope is None else self._table.holds(scope)

    def drain(self, on_fewer: Callable[[], None] = lambda: None) -> None:
        """Refuse new sequences; those in progress go on, and are not held for fuller batches.

        on_fewer: told, on any thread, that some may have ended.
        """
        with self._lock:
            self._table.is_draining = True
            self._on_fewer, self._told_ended = on_fewer, self._table.ended
        self._hurry()

    def close(self, timeout: float) -> bool:
        """Refuse every request, answer those accepted, free the model; see Engine.close."""
        deadline = time.monotonic() + timeout
        with self._lock:
            changes = self._table.close(self._clock())
        self._apply(changes)
        self._hurry()
        with self._lock:
            clean = self._emptied.wait_for(
                lambda: self._table.is_empty, max(0.0, deadline - time.monotonic())
            )
            changes = self._table.abandon(self._clock())
            self._stops = True
            self._sooner.notify()
        self._apply(changes)
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)
        for scheduler in self._schedulers():
            clean = scheduler.close(max(0.0, deadline - time.monotonic())) and clean
        return clean

    def tend(self) -> None:
        """End what has been idle or has waited for too long. The thread does it in time."""
        with self._lock:
            changes = self._table.expire(self._clock())
        self._apply(changes)
        if self._runner.wakes_at <= self._clock():
            self._runner.flush()

    def _warn_of_start(self, wanted: SequenceStep) -> None:
        """Log that a sequence was started anew; now and then, for any caller can bring it about."""
        now = self._clock()
        if now < self._warns_from:
            return
        self._warns_from = now + _WARN_EVERY_S
        _LOG.warning(
            "model %s: sequence %s was started anew before its end; what follows of this kind "
            "within %.0f s is counted, not logged",
            self._model,
            shown(str(wanted.id)),
            _WARN_EVERY_S,
        )

    def _hurry(self) -> None:
        self._runner.hurry()
        if self._plain is not None:
            self._plain.hurry()

    def _schedulers(self) -> list[Scheduler]:
        return [self._scheduler] if self._plain is None else [self._scheduler, self._plain]

    def _check(self, request: Request, wanted: SequenceStep) -> None:
        if request.rows > 1:
            raise InvalidRequest(
                f"inference request to model '{self._model}' must specify batch-size 1 due to "
                "requirements of sequence batcher"
            )
        if wanted.scope is None:
            if self.spec.scope is Scope.STREAM:
                raise Unsupported(
                    f"model '{self._model}' keeps its state for a stream: use ModelStreamInfer"
                )
            if not wanted.id:
                raise self._without_id()
        if wanted.id:
            self._assembly.check_id(wanted.id)

    def _without_id(self) -> InvalidRequest:
        return InvalidRequest(
            f"inference request to model '{self._model}' must specify a non-zero or non-empty "
            "correlation ID"
        )

    def _left(self, step: Step, _request: Request) -> None:
        """Free what the caller of a step, who has left, was waiting for."""
        with self._lock:
            changes = self._table.leave(step, self._clock())
        self._apply(changes)

    def _apply(self, changes: Changes, *, deferred: bool = False) -> None:
        """Do what the table decided. Not under the lock: it ends requests."""
        for step, error in changes.fails:
            step.request.on_leave = None
            if not (step.request.ended or isinstance(error, RequestCancelled)):
                waited = self._clock() - step.arrived
                self.stats.record_failure(int(waited * 1e9))
            try:
                step.request.fail(error)
            except Exception:  # noqa: BLE001  a fault in answering one must not hold up the others
                _LOG.exception(_UNANSWERED, self._model)
        for step in changes.stops:
            self._runner.stop(step)
        for step in changes.runs:
            self._run(step, deferred=deferred)
        if self._table.is_draining:
            self._tell_fewer()

    def _tell_fewer(self) -> None:
        """Tell that sequences have ended; not each step, for who is told looks at every stream."""
        with self._lock:
            ended = self._table.ended
            if ended == self._told_ended:
                return
            self._told_ended = ended
            self._emptied.notify_all()
        self._on_fewer()

    def _run(self, step: Step, *, deferred: bool) -> None:
        given = step.request.claim()
        if step.request.ended:
            return  # its caller has left, which ends the sequence
        try:
            self._runner.start(step, given, deferred=deferred)
        except RequestError as error:
            self._ended(step, Outcome(None, error, NO_TIMINGS))
        except Exception as fault:  # noqa: BLE001  of ours: it must not hold its sequence for ever
            self._ended(step, Outcome(None, logged_fault(self._model, fault), NO_TIMINGS))
            self._runner.stop(step)

    def _ended(self, step: Step, outcome: Outcome) -> None:
        """Store what a step left, answer its caller and start what may run now."""
        request, error, outputs = step.request, outcome.error, outcome.outputs or {}
        request.on_leave = None
        states: Tensors = {}
        if error is None:
            try:
                states = self._assembly.states(outputs)
            except Exception as fault:  # noqa: BLE001  want of memory, perhaps
                error = logged_fault(self._model, fault)
        size = sum([array_bytes(array) for array in states.values()])
        with self._lock:
            error = error or self._table.lacks_room(step, size)
            if error is None:
                changes = self._table.done(step, states, size, self._clock())
                self._ring()
            else:
                changes = self._table.fail(step, reason_of(error), self._clock())
        try:
            if error is None:
                timings = outcome.timings
                if step.inner is not None:  # then they are of this step alone
                    timings.queue_ns += waited_ns(step, step.inner)
                is_silent = self.spec.is_final_only and not step.end
                request.complete(
                    None if is_silent else {name: outputs[name] for name in request.outputs},
                    timings,
                )
            else:
                request.fail(error)
        except Exception:  # noqa: BLE001  a fault in answering one must not hold up the others
            _LOG.exception(_UNANSWERED, self._model)
        # The scheduler, whose thread this is after a run, looks at its queue next.
        self._apply(changes, deferred=error is None)

    def _ring(self) -> None:
        """Wake the thread up if it is to look sooner than it would."""
        at = min(self._table.wakes_at, self._runner.wakes_at)
        if at < self._looks_at:
            self._looks_at = at
            self._sooner.notify()

    def _look_sooner(self) -> None:
        with self._lock:
            self._ring()

    def _watch(self) -> None:
        while True:
            try:
                self.tend()
            except Exception:  # noqa: BLE001  a fault of ours must not end the thread
                _LOG.exception("model %s: sequences could not be looked through", self._model)
            with self._lock:
                if self._stops:
                    return
                self._looks_at = min(self._table.wakes_at, self._runner.wakes_at)
                left = self._looks_at - self._clock()
                if left > 0:
                    self._sooner.wait(None if left == math.inf else left)
