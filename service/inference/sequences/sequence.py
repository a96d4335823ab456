"""A sequence, its steps, and what becomes of them. Plain data: `table` decides."""

import math
from collections import deque
from dataclasses import dataclass, field

from service.errors import RequestError
from service.inference.request import Request
from service.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Limits:
    """What one model allows.

    slots: sequences in progress at once. backlog: sequences that may wait for a slot. idle_s:
    time after the last answer at which a sequence ends; those of a stream end with it alone.
    queue_requests, queue_bytes: of the steps that wait for another one of their sequence.
    state_bytes: of all states together.
    """

    slots: int
    backlog: int
    idle_s: float
    queue_requests: int = 4096
    queue_bytes: int = 256 << 20
    state_bytes: int = 1 << 30


class Sequence:
    """One sequence: its state, and its steps in the order of arrival."""

    __slots__ = (
        "bytes", "idle_at", "is_closed", "is_over", "name", "queue", "running", "scope", "slot",
        "states", "successor", "waits_for", "wake_at",
    )  # fmt: skip

    def __init__(self, name: int | str, scope: object) -> None:
        self.name = name
        self.scope = scope
        self.states: Tensors | None = None  # None: what every sequence starts from
        self.bytes = 0  # of the states
        self.queue: deque[Step] = deque()
        self.running: Step | None = None
        self.slot = -1  # -1: it waits for one
        self.is_closed = False  # no more steps join it: it got its END, or was replaced
        self.is_over = False
        self.waits_for: Sequence | None = None  # the one that it replaces, whose slot it gets
        self.successor: Sequence | None = None
        self.idle_at = math.inf
        self.wake_at = math.inf  # time of its entry in the heap


@dataclass(slots=True, eq=False)
class Step:
    """One request of a sequence.

    slot, states: of its sequence, from the moment when it may run: the sequence may be over before
    the step is. inner: what runs for it.
    """

    request: Request
    sequence: Sequence
    start: bool
    end: bool
    arrived: float
    slot: int = -1
    states: Tensors | None = None
    inner: Request | None = None


@dataclass(slots=True)
class Changes:
    """What is to be done: steps to run, steps to end with an error, steps to stop."""

    runs: list[Step] = field(default_factory=list)
    fails: list[tuple[Step, RequestError]] = field(default_factory=list)
    stops: list[Step] = field(default_factory=list)


def gives_up_at(step: Step) -> float:
    """Return the time at which a step has waited too long for a place."""
    timeout_us = step.request.timeout_us
    return step.arrived + timeout_us / 1e6 if timeout_us else math.inf


def step_leaves_at(step: Step) -> float:
    """Return the time at which a step in the queue of its sequence has waited too long."""
    deadline = math.inf if step.request.deadline is None else step.request.deadline
    return min(deadline, gives_up_at(step)) if step.sequence.slot < 0 else deadline


def leaves_at(sequence: Sequence) -> float:
    """Return the time at which the first step that waits has waited too long."""
    return min([step_leaves_at(step) for step in sequence.queue], default=math.inf)
