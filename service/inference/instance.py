"""One instance of a model that answers request by request: its thread, and whose turn it is.

The requests that an instance has begun take turns, a response each, and so do those that wait: one
that produces for ever holds no other back. No thread waits for a caller: a request whose caller
does not read is put aside until there is room, and one that nobody waits for is stopped in its
next turn.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

from service.errors import RequestCancelled, RequestError
from service.inference.admission import SchedulerConfig
from service.inference.costs import Costs
from service.inference.faults import logged_fault
from service.inference.producer import Producer, Responses
from service.inference.request import Request, Timings
from service.inference.waitlist import Waitlist
from service.observability.stats import BatchTiming, EndKind, ModelStats
from service.tensors import Tensors

_LOG = logging.getLogger(__name__)
_MAX_ACTIVE: Final = 1024  # requests that one instance has begun; more of them wait


class Shared:
    """What the instances of one model share. lock: guards all of it, and the instances' turns."""

    def __init__(
        self,
        model: str,
        config: SchedulerConfig,
        stats: ModelStats,
        clock: Callable[[], float],
        *,
        decoupled: bool,
    ) -> None:
        self.model = model
        self.decoupled = decoupled
        self.stats = stats
        self.clock = clock
        self.lock = threading.RLock()
        self.waitlist = Waitlist(model, config)
        self.costs = Costs()
        self.closing = False


@dataclass(slots=True, eq=False)
class Task:
    """A request that has been begun. begun: when, by the clock.

    left: set when nobody waits for it. count: of its responses so far. is_parked: it has no turn
    until there is room. has_news: there was room, or its caller left, since its last response.
    """

    request: Request
    begun: float
    left: threading.Event
    responses: Responses
    count: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    is_parked: bool = False
    has_news: bool = False


@dataclass(slots=True)
class _Timer:
    """Measures one thing after another, in nanoseconds."""

    last: int = field(default_factory=time.perf_counter_ns)

    def lap(self) -> int:
        """Return the time since the last lap."""
        last, self.last = self.last, time.perf_counter_ns()
        return self.last - last


class Instance:
    """One thread of a model. made: done when the model is there, or with why it is not."""

    def __init__(self, shared: Shared, name: str, make: Callable[[], Producer]) -> None:
        self.made: Future[None] = Future()
        self.thread = threading.Thread(target=self._work, args=(make,), name=name, daemon=True)
        self.wake = threading.Condition(shared.lock)
        self.active: set[Task] = set()  # this and what follows: under the lock
        self.is_busy = True
        self._ready: deque[Task] = deque()
        self._begins = True  # the next turn is for a request that waits
        self._shared = shared

    def _work(self, make: Callable[[], Producer]) -> None:
        try:
            producer = make()
        except BaseException as error:  # noqa: BLE001  a model may raise anything
            self.made.set_exception(error)
            return
        self.made.set_result(None)
        while (task := self._next(producer)) is not None:
            self._step(task)
            del task  # tensors must not outlive their request while the thread waits
        try:
            producer.close()
        except BaseException:  # noqa: BLE001  a model may raise anything
            _LOG.exception("model %s: close failed", self._shared.model)

    def _next(self, producer: Producer) -> Task | None:
        """Wait for a turn; None when closing and nothing is left."""
        shared = self._shared
        while True:
            with shared.lock:
                self.is_busy = True
                expired = shared.waitlist.expire(shared.clock())
                task = None if expired else self._choose(producer)
                if task is not None:
                    return task
                if not expired:
                    if shared.closing and not self.active and not shared.waitlist:
                        return None
                    self.is_busy = False
                    left_s = shared.waitlist.earliest_leave - shared.clock()
                    self.wake.wait(min(max(0.0, left_s), threading.TIMEOUT_MAX))
            for request, error in expired:  # without the lock: callers are answered
                self._fail(request, error)

    def _choose(self, producer: Producer) -> Task | None:
        """Return whose turn it is: of those that were begun, and of those that wait."""
        may_begin = len(self.active) < _MAX_ACTIVE and (self._begins or not self._ready)
        request = self._shared.waitlist.take() if may_begin else None
        self._begins = request is None
        if request is not None:
            return self._begin(request, producer)
        return self._ready.popleft() if self._ready else None

    def _begin(self, request: Request, producer: Producer) -> Task:
        left = threading.Event()
        task = Task(request, self._shared.clock(), left, producer.respond(request, left))
        self.active.add(task)
        request.on_leave = lambda _: self._left(task)
        request.on_room = lambda: self._unpark(task)
        return task

    def _left(self, task: Task) -> None:
        task.left.set()
        self._unpark(task)

    def _unpark(self, task: Task) -> None:
        with self._shared.lock:
            task.has_news = True
            if task.is_parked:
                task.is_parked = False
                self._ready.append(task)
                self.wake.notify()

    def _step(self, task: Task) -> None:
        """Give a request its turn."""
        timer = _Timer()
        try:
            if task.request.ended:
                task.left.set()  # it ended before it was begun
                self._stop(task)
                return
            outputs = next(task.responses)
        except StopIteration as end:
            self._complete(task, end.value, timer)
        except BaseException as error:  # noqa: BLE001  a model may raise anything
            self._failed(task, error, timer)
        else:
            self._respond(task, outputs, timer)

    def _respond(self, task: Task, outputs: Tensors, timer: _Timer) -> None:
        infer_ns = timer.lap()
        task.infer_ns += infer_ns
        with self._shared.lock:
            task.has_news = False
        try:
            has_room = task.request.respond(outputs)
        except Exception as error:  # noqa: BLE001  one that cannot be encoded ends its request
            self._failed(task, error, timer)
            self._close(task)
            return
        output_ns = timer.lap()
        task.output_ns += output_ns
        if not task.request.ended:
            self._shared.stats.record_response(task.count, infer_ns, output_ns)
            task.count += 1
        with self._shared.lock:
            if has_room or task.has_news:
                self._ready.append(task)
            else:
                task.is_parked = True

    def _complete(self, task: Task, outputs: Tensors | None, timer: _Timer) -> None:
        """End a request that its model has answered. outputs: of its last response."""
        shared, request = self._shared, task.request
        infer_ns = timer.lap()
        task.infer_ns += infer_ns
        waited_ns = max(0, int((task.begun - request.arrived) * 1e9))
        compute_ns = task.infer_ns + task.output_ns
        self._forget(task)
        if request.ended:
            self._cancelled(task)
            return
        timing = BatchTiming(request.rows, 0, task.infer_ns, task.output_ns)
        shared.stats.record_batch(timing, [(waited_ns, 1)])
        if outputs is None:
            shared.stats.record_end(task.count, "empty", infer_ns)
        elif shared.decoupled:
            shared.stats.record_response(task.count, infer_ns, 0)
        with shared.lock:
            shared.costs.note((), request.rows, task.infer_ns / 1e9)
        try:
            request.complete(outputs, Timings(waited_ns, compute_ns, task.infer_ns))
        except Exception:  # noqa: BLE001  a fault of ours must not end the thread
            _LOG.exception("model %s: an answer could not be given", shared.model)

    def _failed(self, task: Task, error: BaseException, timer: _Timer) -> None:
        """End a request whose model has raised."""
        infer_ns = timer.lap()
        task.infer_ns += infer_ns
        shared = self._shared
        self._forget(task)
        if task.request.ended:
            self._cancelled(task)
            return
        if not isinstance(error, RequestError):
            error = logged_fault(shared.model, error)
        if shared.decoupled:
            kind: EndKind = "cancelled" if isinstance(error, RequestCancelled) else "failed"
            shared.stats.record_end(task.count, kind, infer_ns)
        self._fail(task.request, error)

    def _stop(self, task: Task) -> None:
        """Stop a model in the middle of a request that nobody waits for."""
        self._forget(task)
        self._cancelled(task)
        self._close(task)

    def _close(self, task: Task) -> None:
        try:
            task.responses.close()
        except BaseException:  # noqa: BLE001  it may raise on its way out
            _LOG.exception("model %s failed when a request was stopped", self._shared.model)

    def _cancelled(self, task: Task) -> None:
        if self._shared.decoupled:
            self._shared.stats.record_end(task.count, "cancelled", task.infer_ns)

    def _forget(self, task: Task) -> None:
        task.request.on_leave = task.request.on_room = None
        with self._shared.lock:
            self.active.discard(task)

    def _fail(self, request: Request, error: RequestError) -> None:
        if request.ended:
            return
        if not isinstance(error, RequestCancelled):  # which its answer counts
            waited_s = self._shared.clock() - request.arrived
            self._shared.stats.record_failure(int(waited_s * 1e9))
        request.fail(error)
