"""How steps that may run get to the scheduler: one by one, for it to batch the oldest of them."""

import math
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

from service.inference.request import Key, Outcome, Request, batch_key
from service.inference.scheduler import Scheduler
from service.inference.sequences.assembly import Assembly
from service.inference.sequences.sequence import Step
from service.tensors import Signature, Tensors

StepEnded: TypeAlias = Callable[[Step, Outcome], None]


class Runner(Protocol):
    """Runs steps. Each that is started ends exactly once, by the callback given to `bind`."""

    scheduler: Scheduler
    assembly: Assembly

    @property
    def wakes_at(self) -> float:
        """Return the time at which `flush` is to be called at the latest; math.inf: never."""

    def bind(self, ended: StepEnded, ring: Callable[[], None]) -> None:
        """Set what is told the end of each step, and that `wakes_at` is sooner.

        ended: gets the outputs, those of states among them, or the error.
        """

    def start(self, step: Step, given: Tensors, *, deferred: bool) -> None:
        """Run a step on the inputs that its client gave.

        deferred: the caller calls `flush`, or is called by the scheduler, which looks by itself.
        Raises RequestError if it is refused; the step is then not told to have ended.
        """

    def stop(self, step: Step) -> None:
        """End a step that nobody waits for, now or as soon as may be."""

    def flush(self) -> None:
        """Run what was started deferred."""

    def hurry(self) -> None:
        """Hold nothing for a fuller batch from now on. Ends no step on the caller's thread."""


class OldestRunner:
    """Every step is a request of its own: the scheduler batches the oldest."""

    def __init__(self, scheduler: Scheduler, assembly: Assembly, visible: Signature) -> None:
        """visible: what clients send."""
        self.scheduler = scheduler
        self.assembly = assembly
        self._visible = visible
        self._ended: StepEnded = lambda _step, _outcome: None

    @property
    def wakes_at(self) -> float:
        """Return when `flush` is needed: never, for the scheduler waits by itself."""
        return math.inf

    def bind(self, ended: StepEnded, ring: Callable[[], None]) -> None:
        """Set what is told the end of each step."""
        del ring
        self._ended = ended

    def start(self, step: Step, given: Tensors, *, deferred: bool) -> None:
        """Hand a step to the scheduler; see Runner.start."""
        request = step.request
        key = step_key(self._visible, request, given)
        inputs, added = self.assembly.inputs(step, given)
        step.inner = inner = Request(
            inputs,
            self.assembly.outputs(request.outputs),
            rows=1,
            on_end=partial(self._ended, step),
            deadline=request.deadline,
            priority=request.priority,
            timeout_us=request.timeout_us,
            key=(*key, *added),
            size=request.bytes,
            parameters=request.parameters,
        )
        inner.came = step.arrived
        inner.first_deadline = None  # it was accepted when it came: it is not refused now
        if request.ended:  # before anybody could see `inner`
            inner.cancel()
        else:
            self.scheduler.submit(inner, deferred=deferred)

    def stop(self, step: Step) -> None:
        """Cancel the request of a step."""
        if step.inner is not None:
            step.inner.cancel()

    def flush(self) -> None:
        """Run what was started deferred."""
        self.scheduler.flush()

    def hurry(self) -> None:
        """Hold nothing for a larger batch from now on."""
        self.scheduler.hurry()


def waited_ns(step: Step, request: Request) -> int:
    """Return how long a step waited before the request that runs it was made, in nanoseconds."""
    return max(0, int((request.arrived - step.arrived) * 1e9))


def step_key(visible: Signature, request: Request, given: Tensors) -> Key:
    """Return the batch key of what a client gave."""
    return batch_key(visible, given) if request.key is None else request.key
