"""Which sequences there are, what each holds, and which of their steps may run now.

State belongs to a sequence object, never to a place in a batch. A sequence has at most one step
in progress. Knows no thread and no clock: its owner locks it, tells the time and carries out the
changes that it returns.
"""

import heapq
import math
from collections import deque

from service.errors import (
    DeadlineExceeded,
    QueueFull,
    RequestCancelled,
    RequestError,
    SequenceBacklogFull,
    SequenceTimeout,
    ShuttingDown,
    StatesFull,
)
from service.inference.request import Request, SequenceStep
from service.inference.sequences.alarm import Alarm
from service.inference.sequences.endings import CANCELLED, CLOSED, LATE, TIMED_OUT, Endings, idle
from service.inference.sequences.sequence import (
    Changes,
    Limits,
    Sequence,
    Step,
    gives_up_at,
    leaves_at,
    step_leaves_at,
)
from service.tensors import Tensors


class Table:
    """The sequences of one model."""

    def __init__(self, model: str, limits: Limits) -> None:
        self.is_draining = False  # no new sequences
        self.is_closing = False  # nothing new; sequences end as soon as they have no step
        self.waiting = 0  # steps in the queues of sequences
        self.waiting_bytes = 0
        self.state_bytes = 0
        self.reaped = 0
        self.replaced = 0
        self.opened = 0
        self.ended = 0
        self._model = model
        self._limits = limits
        self._live: dict[object, dict[int | str, Sequence]] = {}  # by scope: takes more steps
        self._endings = Endings(model)
        self._all: dict[Sequence, None] = {}  # every one that is not over
        self._scoped: dict[object, dict[Sequence, None]] = {}  # of them those of a scope
        self._backlog: dict[Sequence, None] = {}
        self._slots = list(range(limits.slots))  # free ones, a heap
        self._heirs: deque[Sequence] = deque()  # that have just got a place
        self._alarm = Alarm()

    @property
    def open(self) -> int:
        """Return how many sequences have a slot."""
        return self._limits.slots - len(self._slots)

    @property
    def backlog(self) -> int:
        """Return how many sequences wait for a slot."""
        return len(self._backlog)

    @property
    def is_empty(self) -> bool:
        """Tell whether no sequence is left."""
        return not self._all

    @property
    def wakes_at(self) -> float:
        """Return the time at which `expire` is to be called; math.inf: never."""
        return self._alarm.rings_at

    def holds(self, scope: object) -> bool:
        """Tell whether a scope has sequences that are not over."""
        return scope in self._scoped

    def owes(self, scope: object) -> bool:
        """Tell whether the sequence that a scope has without an id goes on, or ended too early."""
        return 0 in self._live.get(scope, {}) or self._endings.knows(scope, 0)

    def forget(self, scope: object) -> None:
        """Forget why the sequence ended that a scope has without an id."""
        self._endings.forget(scope, 0)

    def inherit(self, scope: object) -> None:
        """Have a scope be told that its sequence without an id ended with another version."""
        self._endings.note(scope, 0, CLOSED)

    def add(self, request: Request, wanted: SequenceStep, now: float) -> tuple[Step, Changes]:
        """Take the next step of a sequence.

        Raises InvalidRequest if there is no such sequence, SequenceBacklogFull, QueueFull or
        ShuttingDown; nothing has changed then.
        """
        if self.is_closing:
            raise ShuttingDown
        changes = Changes()
        live = self._live.get(wanted.scope, {}).get(wanted.id)
        starts = wanted.start or (live is None and self._starts_by_itself(wanted))
        if live is None and not starts:
            raise self._endings.not_started(wanted.scope, wanted.id)
        if starts:
            if self.is_draining:
                raise ShuttingDown
            if live is None and not self._slots and len(self._backlog) >= self._limits.backlog:
                raise SequenceBacklogFull(self._model, self._limits.slots, len(self._backlog))
        self._admit(request, live)
        sequence = self._open(wanted, live) if starts or live is None else live
        step = Step(request, sequence, starts, wanted.end, now)
        sequence.queue.append(step)
        self.waiting += 1
        self.waiting_bytes += request.bytes
        if wanted.end:
            self._unlist(sequence)
        sequence.idle_at = math.inf
        self._start_next(sequence, now, changes)
        if sequence.queue:  # for those before it in the queue it is set
            self._alarm.set(sequence, step_leaves_at(step))
        return step, changes

    def lacks_room(self, step: Step, size: int) -> StatesFull | None:
        """Return what is told of a step that leaves more state than there is room for."""
        sequence, most = step.sequence, self._limits.state_bytes
        total = self.state_bytes - sequence.bytes + size
        is_last = sequence.is_over or (sequence.is_closed and not sequence.queue)
        if total <= most or size <= sequence.bytes or is_last:
            return None
        return StatesFull(self._model, most >> 20)

    def done(self, step: Step, states: Tensors, size: int, now: float) -> Changes:
        """Note that a step has run, and what state it left. size: of the states in bytes."""
        changes = Changes()
        sequence = step.sequence
        if sequence.running is not step:
            return changes
        sequence.running = None
        if sequence.is_over:
            return changes
        sequence.states = states
        self.state_bytes += size - sequence.bytes
        sequence.bytes = size
        if sequence.queue:
            self._start_next(sequence, now, changes)
        elif sequence.is_closed:
            self._free(sequence, now, changes)
        elif self.is_closing:
            self._end(sequence, CLOSED, None, now, changes)
        else:
            sequence.idle_at = now + self._idle_s(sequence)
            self._alarm.set(sequence, sequence.idle_at)
        return changes

    def fail(self, step: Step, reason: str, now: float) -> Changes:
        """End the sequence of a step that did not run to its end.

        reason: what its next request is told, after "the sequence ended because".
        """
        changes = Changes()
        sequence = step.sequence
        if sequence.running is step:
            sequence.running = None
        if not sequence.is_over:
            self._end(sequence, reason, None, now, changes)
        return changes

    def leave(self, step: Step, now: float) -> Changes:
        """Note that the caller of a step has left: all that waits of the sequence is cancelled."""
        changes = Changes()
        sequence = step.sequence
        if sequence.running is step:
            changes.stops.append(step)
            if step.inner is None:
                sequence.running = None
        if not sequence.is_over:
            self._end(sequence, CANCELLED, RequestCancelled(), now, changes)
        return changes

    def finish(self, scope: object, now: float) -> Changes:
        """End the sequences of a scope that takes no more steps, each as soon as it has none."""
        changes = Changes()
        for sequence in list(self._scoped.get(scope, ())):
            if not sequence.is_over:  # by the end of one before
                self._unlist(sequence)
                if not (sequence.queue or sequence.running):
                    self._free(sequence, now, changes)
        return changes

    def release(self, scope: object, now: float) -> Changes:
        """End every sequence of a scope that is over."""
        changes = Changes()
        for sequence in list(self._scoped.get(scope, ())):
            if sequence.running is not None:
                changes.stops.append(sequence.running)
            if not sequence.is_over:
                self._end(sequence, CANCELLED, RequestCancelled(), now, changes)
        self._endings.forget_scope(scope)
        return changes

    def expire(self, now: float) -> Changes:
        """End what has been idle for too long, and what waited longer than it may."""
        changes = Changes()
        while (sequence := self._alarm.next(now)) is not None:
            if sequence.idle_at <= now:
                self.reaped += 1
                self._end(sequence, idle(self._limits.idle_s), None, now, changes)
                continue
            self._expire_steps(sequence, now, changes)
            if not sequence.is_over:
                self._alarm.set(sequence, min(sequence.idle_at, leaves_at(sequence)))
        return changes

    def close(self, now: float) -> Changes:
        """Take nothing more; end the sequences that have no step."""
        changes = Changes()
        self.is_closing = self.is_draining = True
        for sequence in list(self._all):
            if not (sequence.is_over or sequence.queue or sequence.running):
                self._end(sequence, CLOSED, None, now, changes)
        return changes

    def abandon(self, now: float) -> Changes:
        """End every sequence, with all its steps."""
        changes = Changes()
        for sequence in list(self._all):
            if sequence.running is not None:  # its caller is told before it is stopped
                changes.fails.append((sequence.running, ShuttingDown()))
                changes.stops.append(sequence.running)
            if not sequence.is_over:
                self._end(sequence, CLOSED, ShuttingDown(), now, changes)
        return changes

    def _starts_by_itself(self, wanted: SequenceStep) -> bool:
        """Tell whether a step begins the sequence that a scope has without any id.

        Not after one that failed: its next request is to know that.
        """
        is_own = wanted.scope is not None and not wanted.id
        return is_own and not self._endings.knows(wanted.scope, wanted.id)

    def _admit(self, request: Request, live: Sequence | None) -> None:
        """Raise QueueFull if the request has to wait and there is no room for it.

        live: what it goes on with or replaces; if that has nothing to do, it does not wait.
        """
        limits = self._limits
        if self._slots if live is None else live.slot >= 0 and live.running is None:
            return
        if self.waiting >= limits.queue_requests:
            raise QueueFull(self._model, f"{self.waiting} requests")
        if self.waiting and self.waiting_bytes + request.bytes > limits.queue_bytes:
            raise QueueFull(self._model, f"{self.waiting_bytes >> 20} MiB")

    def _open(self, wanted: SequenceStep, live: Sequence | None) -> Sequence:
        sequence = Sequence(wanted.id, wanted.scope)
        self.opened += 1
        self._all[sequence] = None
        if wanted.scope is not None:
            self._scoped.setdefault(wanted.scope, {})[sequence] = None
        if live is not None:
            self.replaced += 1
            self._unlist(live)
            if live.running is None and not live.queue:  # nothing of it is left to do
                sequence.slot, live.slot = live.slot, -1
                self._finish(live)
            else:
                sequence.waits_for, live.successor = live, sequence
        elif self._slots:
            sequence.slot = heapq.heappop(self._slots)
        else:
            self._backlog[sequence] = None
        self._live.setdefault(wanted.scope, {})[wanted.id] = sequence
        self._endings.forget(wanted.scope, wanted.id)
        return sequence

    def _start_next(self, sequence: Sequence, now: float, changes: Changes) -> None:
        """Take the next step out of the queue to be run, if one may."""
        if sequence.slot < 0 or sequence.running is not None or not sequence.queue:
            return
        step = self._pop(sequence)
        if step.request.ended:
            self._end(sequence, CANCELLED, RequestCancelled(), now, changes)
        elif step.request.deadline is not None and step.request.deadline <= now:
            changes.fails.append((step, DeadlineExceeded()))
            self._end(sequence, LATE, None, now, changes)
        else:
            sequence.running = step
            step.slot, step.states = sequence.slot, sequence.states
            changes.runs.append(step)

    def _expire_steps(self, sequence: Sequence, now: float, changes: Changes) -> None:
        if sequence.slot < 0 and any(gives_up_at(step) <= now for step in sequence.queue):
            self._end(sequence, TIMED_OUT, SequenceTimeout(), now, changes)
            return
        late = [s for s in sequence.queue if s.request.deadline is not None
                and s.request.deadline <= now]  # fmt: skip
        for step in late:
            sequence.queue.remove(step)
            self._uncount(step)
            changes.fails.append((step, DeadlineExceeded()))
        if late:
            self._end(sequence, LATE, None, now, changes)

    def _end(
        self,
        sequence: Sequence,
        reason: str,
        error: RequestError | None,
        now: float,
        changes: Changes,
    ) -> None:
        """End a sequence before its END. error: of what waits; None: that it was not started."""
        if not sequence.is_closed:
            self._endings.note(sequence.scope, sequence.name, reason)
        ending = error or self._endings.not_started(sequence.scope, sequence.name, reason)
        while sequence.queue:
            changes.fails.append((self._pop(sequence), ending))
        self._free(sequence, now, changes)

    def _free(self, sequence: Sequence, now: float, changes: Changes) -> None:
        """Take a sequence out, and give its place to the next."""
        self._unlist(sequence)
        slot, sequence.slot = sequence.slot, -1
        heir, before = sequence.successor, sequence.waits_for
        sequence.successor = sequence.waits_for = None
        self._finish(sequence)
        if before is not None:
            before.successor = heir
        if heir is not None:
            heir.waits_for = before
        if sequence in self._backlog:
            if heir is None:
                del self._backlog[sequence]
            else:  # it waits in its stead
                self._backlog = {heir if s is sequence else s: None for s in self._backlog}
        if slot < 0:
            return
        if heir is None and self._backlog:
            heir = next(iter(self._backlog))
            del self._backlog[heir]
        if heir is None:
            heapq.heappush(self._slots, slot)
            return
        heir.slot = slot
        self._start_heir(heir, now, changes)

    def _start_heir(self, heir: Sequence, now: float, changes: Changes) -> None:
        """Start what has got a place. It may be too late for it, and for any number behind it."""
        self._heirs.append(heir)
        if len(self._heirs) > 1:
            return  # a caller of this very call goes on with it: the stack would not hold them all
        try:
            while self._heirs:
                self._start_next(self._heirs[0], now, changes)
                self._heirs.popleft()
        finally:
            self._heirs.clear()

    def _finish(self, sequence: Sequence) -> None:
        sequence.is_over = True
        sequence.states = None
        self.ended += 1
        self.state_bytes -= sequence.bytes
        del self._all[sequence]
        if (of_scope := self._scoped.get(sequence.scope)) is not None:
            del of_scope[sequence]
            if not of_scope:
                del self._scoped[sequence.scope]
        self._alarm.forget(sequence)

    def _unlist(self, sequence: Sequence) -> None:
        sequence.is_closed = True
        of_scope = self._live.get(sequence.scope, {})
        if of_scope.get(sequence.name) is sequence:
            del of_scope[sequence.name]
            if not of_scope:
                del self._live[sequence.scope]

    def _pop(self, sequence: Sequence) -> Step:
        step = sequence.queue.popleft()
        self._uncount(step)
        return step

    def _uncount(self, step: Step) -> None:
        self.waiting -= 1
        self.waiting_bytes -= step.request.bytes

    def _idle_s(self, sequence: Sequence) -> float:
        return self._limits.idle_s if sequence.scope is None else math.inf
