"""The scheduler of one model version: a bounded queue and the threads that empty it.

Every request that `submit` accepts ends exactly once: with its rows, with an error, or because
its caller left. Threads are owned here and joined by `close`.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Final, TypeAlias

from service.errors import (
    BackendError,
    BackendInterrupted,
    RequestError,
    ShuttingDown,
)
from service.inference.admission import SchedulerConfig, Waiting
from service.inference.backend import Backend
from service.inference.costs import Costs, RunCost
from service.inference.execution import live_members, run_batch
from service.inference.faults import logged_fault
from service.inference.policy import Close, Wait, decide
from service.inference.queue import RequestQueue
from service.inference.request import Key, Request, Run, Timings, batch_key
from service.inference.split import split_request
from service.observability.stats import BatchTiming, ModelStats
from service.tensors import Tensors

_LOG = logging.getLogger(__name__)
_INTERRUPT_S: Final = 5.0  # for a run to notice that it was stopped: at most one node of its graph
_TOO_LONG_S: Final = 0.25  # an inline run that took this long was the last one of its model
_MAX_DEAD: Final = 256  # requests that ended in the queue and may stay there

_Step: TypeAlias = tuple[list[tuple[Request, RequestError]], list[Request], Run]


class Scheduler:
    """Batches the requests for one backend and runs them."""

    def __init__(
        self,
        model: str,
        backend: Backend,
        config: SchedulerConfig,
        *,
        stats: ModelStats | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stats = stats or ModelStats()
        self._model = model
        self._fault = partial(logged_fault, model)
        self._backend = backend
        self._config = config
        self._policy = config.batch
        self._signature = backend.signature
        self._clock = clock
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._queue = RequestQueue(config.queue)  # this and what follows: under _lock
        self._waiting = Waiting(model, config)
        self._in_progress: list[list[Request]] = []  # members of each batch that runs
        self._closing = False
        self._hurries = False  # nothing is held for a larger batch
        self._dead = 0  # requests that ended in the queue and are still in it, at most
        self._costs = Costs()
        self._may_run_inline = config.batch.max_delay_s == 0
        self._threads = [
            threading.Thread(target=self._work, name=f"{model}-{index}", daemon=True)
            for index in range(config.instances)
        ]

    def start(self) -> None:
        """Start the threads. What was submitted before is served now."""
        for thread in self._threads:
            thread.start()

    @property
    def max_rows(self) -> int:
        """Return the rows of the largest batch."""
        return self._policy.max_rows

    @property
    def queue_depth(self) -> int:
        """Return how many requests wait."""
        return self._waiting.requests

    @property
    def batches_in_progress(self) -> int:
        """Return how many batches run."""
        return len(self._in_progress)

    @property
    def mean_run_s(self) -> float:
        """Return the running mean of the time of one execution, in seconds."""
        return self._costs.mean_s

    def run_costs(self) -> list[RunCost]:
        """Return what runs cost by size of the batch; inline is False where nothing runs inline."""
        with self._changed:
            return self._costs.by_size(self._policy.max_rows, may_inline=self._may_run_inline)

    def runs_inline(self, key: Key, rows: int) -> bool:
        """Tell whether `flush` would run a batch of this shape and size on the caller's thread.

        Only what was seen to be cheap is: by shape, and by the size of the batch to a power of
        two.
        """
        return self._may_run_inline and self._costs.is_cheap(key, rows)

    def submit(self, request: Request, *, deferred: bool = False) -> None:
        """Accept a valid request; its on_end is called later, on any thread.

        A request with more rows than the largest batch is split, and its answer joined again.
        deferred: the caller calls `flush` after a burst of requests; no thread is woken up yet.
        Raises QueueFull, DeadlineUnmeetable or ShuttingDown, and InvalidRequest if it has more
        rows than the queue could ever hold; the request has then not ended.
        """
        max_rows = self._policy.max_rows
        batches = -(-request.rows // max_rows)
        now = self._clock()
        if request.key is None:
            request.key = batch_key(self._signature, request.inputs)
        with self._lock:
            if self._closing:
                raise ShuttingDown
            self._waiting.admit(request, batches, now, self._costs, self._queue.count)
            parts = [request]
            if batches > 1:
                parts = split_request(request, max_rows, self._fault)
            for part in parts:
                part.arrived = now
                part.on_leave = self._left
                self._queue.push(part)
                self._waiting.add(part)
            if not deferred:
                self._changed.notify(len(parts))
        for part in parts:
            if part.ended:  # its caller left before on_leave was set
                self._left(part)

    def shrink(self, request: Request) -> None:
        """Free the places of the callers who have left a request that others wait for."""
        with self._lock:
            if request.waiting:
                self._waiting.remove(request)
                request.strip()
                self._waiting.add(request)

    def serve_now(self, request: Request) -> bool:
        """Run a request on this thread if nothing is ahead of it and its like were cheap.

        request: its key is set, and it fits into one batch. False: it has to be submitted.
        """
        if not self.runs_inline(request.key or (), request.rows):
            return False
        members = [request]
        with self._lock:
            if self._waiting.requests or self._in_progress or self._closing:
                return False
            self._in_progress.append(members)
        request.arrived = started = self._clock()
        request.run = run = Run(1)
        request.on_leave = self._left
        self._perform(([], members, run))
        self._watch_inline(started)
        return True

    def flush(self) -> None:
        """Serve what was submitted deferred.

        A cheap model that nobody runs at the moment is run right here: a hand-over to a thread
        would cost more than the run. Otherwise the threads are woken up.
        """
        try:
            self._run_inline()
        finally:  # also after a fault of ours: what is left is for the threads
            if self._waiting.requests:
                with self._changed:
                    self._changed.notify(self._config.instances)

    def hurry(self) -> None:
        """Hold nothing for a larger batch from now on."""
        with self._changed:
            self._hurries = True
            self._changed.notify_all()

    def close(self, timeout: float) -> bool:
        """Refuse new requests, answer those accepted, join the threads, close the backend.

        timeout: seconds; what waits or runs then is stopped and answered with ShuttingDown.
        Returns True if everything accepted was answered by the model.
        """
        with self._changed:
            self._closing = self._hurries = True
            self._changed.notify_all()
        if self._settles(timeout):
            self._backend.close()
            return True
        with self._changed:
            rest = [*self._queue.drain(), *chain.from_iterable(self._in_progress)]
        cut_off = [request.fail(ShuttingDown()) for request in rest]  # which interrupts runs
        if not self._settles(_INTERRUPT_S):
            return False  # a run cannot be stopped: its backend must live until the process ends
        self._backend.close()
        return not any(cut_off)

    def _settles(self, timeout: float) -> bool:
        """Wait until the threads have ended and nothing runs inline. False at the time-out."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    return False
        with self._changed:
            left = max(0.0, deadline - time.monotonic())
            return self._changed.wait_for(
                lambda: not (self._in_progress or self._waiting.requests), left
            )

    def _left(self, request: Request) -> None:
        """Free the place of a request that ended early; stop a run that nobody waits for."""
        with self._lock:
            if request.waiting:
                self._waiting.remove(request)
                self._dead += 1
                if self._dead > self._waiting.requests + _MAX_DEAD:
                    self._queue.compact()
                    self._dead = 0
                return
            run, request.run = request.run, None
            if run is None:
                return
            run.members -= 1
            if run.members:
                return
        run.interrupt.request()

    def _work(self) -> None:
        while (step := self._next_step()) is not None:
            self._perform(step)
            del step  # tensors must not outlive their batch while the thread waits

    def _perform(self, step: _Step) -> None:
        expired, members, run = step
        for request, error in expired:
            self._fail(request, error)
        if members:
            try:
                self._execute(members, run)
            except Exception as error:  # noqa: BLE001  a fault of ours must not strand callers
                for request in members:
                    self._fail(request, self._fault(error))
            finally:
                with self._lock:
                    self._in_progress.remove(members)
                    if self._closing:
                        self._changed.notify_all()

    def _next_step(self) -> _Step | None:
        """Wait until there are requests to expire or to run; None when closing and empty."""
        with self._changed:
            while True:
                if expired := self._queue.expire(self._clock()):
                    return expired, [], Run(0)
                key = self._queue.front()
                if key is None:
                    if self._closing:
                        return None
                    self._changed.wait()
                    continue
                waiting = self._queue.peek(key, self._policy.max_rows + 1)
                if not waiting:  # callers leave without the lock: those have, just now
                    continue
                decision = self._decide(waiting)
                if isinstance(decision, Close):
                    return [], *self._claim(key, decision.requests)
                until = min(decision.until, self._queue.earliest_leave)
                self._changed.wait(until - self._clock())

    def _run_inline(self) -> None:
        started = self._clock()
        while (
            self._may_run_inline
            and self._waiting.requests
            and (step := self._next_inline()) is not None
        ):
            self._perform(step)
            started = self._watch_inline(started)

    def _watch_inline(self, started: float) -> float:
        """Let no run that began then be followed by another here if it took too long."""
        now = self._clock()
        if now - started > _TOO_LONG_S:
            _LOG.info("model %s: runs on its own thread from now on", self._model)
            self._may_run_inline = False
        return now

    def _next_inline(self) -> _Step | None:
        """Return what can be done at once, None if nothing or if a batch is running."""
        with self._lock:
            if self._in_progress:
                return None
            if expired := self._queue.expire(self._clock()):
                return expired, [], Run(0)
            key = self._queue.front()
            if key is None:
                return None
            waiting = self._queue.peek(key, self._policy.max_rows + 1)
            decision = self._decide(waiting) if waiting else None
            if type(decision) is not Close:
                return None
            rows = sum([request.rows for request in waiting[: decision.requests]])
            if not self.runs_inline(key, rows):
                return None
            return [], *self._claim(key, decision.requests)

    def _decide(self, waiting: Sequence[Request]) -> Close | Wait:
        return decide(
            self._policy,
            [request.rows for request in waiting],
            waiting[0].arrived,
            self._clock(),
            draining=self._hurries,
        )

    def _claim(self, key: Key, count: int) -> tuple[list[Request], Run]:
        members = self._queue.take(key, count)  # none, if their callers have left just now
        run = Run(len(members))
        if members:
            self._in_progress.append(members)
        for request in members:
            self._waiting.remove(request)
            request.run = run
        return members, run

    def _execute(self, claimed: list[Request], run: Run) -> None:
        """Run a batch and end its members. If it fails, run each member once by itself."""
        started = time.perf_counter_ns()
        members, inputs = live_members(claimed, self._fault_of)
        if not members:
            return
        try:
            timing, parts = run_batch(self._backend, members, inputs, run.interrupt, started)
        except BackendInterrupted:
            return  # every caller has left: nobody waits for an answer
        except BackendError as error:
            if len(members) == members[0].count == 1:
                self._fail(members[0], self._fault(error))
                return
            for request in members:
                self._execute_alone(request.singles())
            return
        self._finish(members, parts, timing)

    def _execute_alone(self, requests: Sequence[Request]) -> None:
        for request in requests:
            request.run = alone = Run(1)
            request.on_leave = self._left
            self._execute([request], alone)

    def _finish(self, members: list[Request], parts: list[Tensors], timing: BatchTiming) -> None:
        now = self._clock()
        compute_ns = timing.input_ns + timing.infer_ns + timing.output_ns
        started = now - compute_ns / 1e9
        queue_ns = [max(0, int((started - request.arrived) * 1e9)) for request in members]
        counted = zip(queue_ns, members, strict=True)
        waits = [
            wait for ns, request in counted if request.is_counted for wait in request.waits(ns)
        ]
        self.stats.record_batch(timing, waits)
        self._costs.note(members[0].key or (), timing.rows, compute_ns / 1e9)
        for request, part, waited in zip(members, parts, queue_ns, strict=True):
            request.on_leave = None  # the run is over: nothing is left to stop
            if tuple(part) != request.outputs:  # a batch mate wanted others, or another order
                part = {name: part[name] for name in request.outputs}  # noqa: PLW2901
            try:
                timings = Timings(waited, compute_ns, timing.infer_ns, timing.input_ns)
                request.complete(part, timings)
            except Exception:  # noqa: BLE001  it must not harm its batch mates
                _LOG.exception("model %s: an answer could not be given", self._model)

    def _fault_of(self, request: Request, error: Exception) -> None:
        self._fail(request, self._fault(error))

    def _fail(self, request: Request, error: RequestError) -> None:
        if request.ended:
            return
        waited = self._clock() - request.arrived
        for waited_ns, count in request.waits(int(waited * 1e9)):
            self.stats.record_failure(waited_ns, count)  # who is answered may ask for it at once
        request.fail(error)
