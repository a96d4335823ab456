"""An engine of sequences over a backend that adds up and waits for the test."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from service.errors import BackendError, BackendInterrupted, RequestError
from service.inference.admission import SchedulerConfig
from service.inference.backend import Interrupt
from service.inference.policy import BatchPolicy
from service.inference.request import Outcome, Request, SequenceStep
from service.inference.scheduler import Scheduler
from service.inference.sequences.assembly import Assembly
from service.inference.sequences.direct import DirectRunner
from service.inference.sequences.engine import SequenceEngine
from service.inference.sequences.runner import OldestRunner, Runner
from service.inference.sequences.sequence import Limits
from service.repository.sequences import (
    Control,
    ControlSpec,
    Direct,
    Oldest,
    SequenceSpec,
    StateSpec,
)
from service.tensors import FP32, INT32, Array, Signature, Tensors, TensorSpec
from tests.support.fake import FakeBackend, ManualClock
from tests.support.waiting import eventually

VISIBLE = Signature((TensorSpec("X", FP32, (-1, 1)),), (TensorSpec("Y", FP32, (-1, 1)),), True)
TOTAL = StateSpec("total_in", "total_out", FP32, (1,), 0, np.zeros((1, 1), np.float32))


def flag(name: str, kind: Control) -> ControlSpec:
    """Return a control input of zeros and ones."""
    zero, one = (np.full((1, 1), value, np.int32) for value in (0, 1))
    return ControlSpec(name, kind, INT32, (1,), zero, one)


SPEC = SequenceSpec((TOTAL,), (flag("READY", Control.READY), flag("START", Control.START)))


class Adder(FakeBackend):
    """Y, and the state, is the sum of X and the state. ready: READY of every run, in order."""

    def __init__(self, *, is_open: bool = True) -> None:
        super().__init__(SPEC.graph_signature(VISIBLE), is_open=is_open)
        self.ready: list[list[int]] = []
        self.starts: list[list[int]] = []

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run once the gate is passed; see Backend.run."""
        values = inputs["X"][:, 0].tolist()
        self.ready.append(inputs["READY"][:, 0].tolist())
        self.starts.append(inputs["START"][:, 0].tolist())
        self._pass_gate(values, interrupt)
        if interrupt.requested:
            self.interrupted += 1
            raise BackendInterrupted("stopped")
        if self.poison & set(values):
            raise BackendError("poison")
        total: Array = inputs["X"] + inputs["total_in"]
        return dict.fromkeys(outputs, total)


@dataclass
class Sent:
    """One request and how it ended."""

    request: Request
    outcomes: list[Outcome]

    @property
    def total(self) -> float:
        """Wait for the answer and return it."""
        outcome = eventually(lambda: self.outcomes, "an answer")[0]
        assert outcome.outputs is not None, outcome.error
        assert list(outcome.outputs) == ["Y"]
        return float(outcome.outputs["Y"][0, 0])

    @property
    def error(self) -> RequestError:
        """Wait for the error and return it."""
        outcome = eventually(lambda: self.outcomes, "an error")[0]
        assert outcome.error is not None
        return outcome.error


@dataclass
class Rig:
    """An engine with its backend and its clock, which stands still until the test moves it."""

    engine: SequenceEngine
    runner: Runner
    backend: Adder
    clock: ManualClock

    def send(  # what a step is made of
        self, name: int | str, value: float, *, start: bool = False, end: bool = False,
        scope: object = None, deadline_s: float | None = None, timeout_us: int = 0,
        deferred: bool = False, told: Callable[[], None] | None = None,
    ) -> Sent:  # fmt: skip
        """Submit a step. told: called with its end, before it is noted.

        Raises what the engine does.
        """
        outcomes: list[Outcome] = []

        def on_end(outcome: Outcome) -> None:
            if told is not None:
                told()
            outcomes.append(outcome)

        request = Request(
            {"X": np.full((1, 1), value, np.float32)}, ("Y",), rows=1,
            on_end=on_end, timeout_us=timeout_us,
            deadline=None if deadline_s is None else self.clock() + deadline_s,
            sequence=SequenceStep(name, start=start, end=end, scope=scope),
        )  # fmt: skip
        sent = Sent(request, outcomes)
        self.engine.submit(request, deferred=deferred)
        return sent

    def burst(self, *steps: tuple[int, float]) -> list[Sent]:
        """Submit steps of sequences together, to be batched; each starts its sequence."""
        sent = [self.send(name, value, start=True, deferred=True) for name, value in steps]
        self.engine.flush()
        return sent

    def pass_time(self, seconds: float) -> None:
        """Let time pass and be seen."""
        self.clock.advance(seconds)
        self.engine.tend()


@contextmanager
def rig(
    strategy: Oldest | Direct | None = None,
    *,
    slots: int = 8,
    backlog: int = 8,
    idle_s: float = 10.0,
    rows: int = 4,
    lanes: int = 1,
    is_open: bool = True,
    queue_requests: int = 4096,
    state_bytes: int = 1 << 20,
) -> Iterator[Rig]:
    """Run an engine; it is closed at the end. lanes: instances."""
    clock, backend = ManualClock(), Adder(is_open=is_open)
    oldest = strategy if isinstance(strategy, Oldest) else Oldest()
    policy = BatchPolicy(rows, oldest.preferred_rows, oldest.max_delay_s)
    scheduler = Scheduler("m", backend, SchedulerConfig(policy, instances=lanes), clock=clock)
    assembly = Assembly("m", SPEC, batched=True)
    runner: Runner = OldestRunner(scheduler, assembly, VISIBLE)
    if isinstance(strategy, Direct):
        slots = rows * lanes
        runner = DirectRunner(scheduler, assembly, VISIBLE, strategy, lanes=lanes, clock=clock)
    limits = Limits(slots, backlog, idle_s, queue_requests, 1 << 20, state_bytes)
    engine = SequenceEngine("m", SPEC, VISIBLE, limits, runner, clock=clock)
    scheduler.start()
    try:
        yield Rig(engine, runner, backend, clock)
    finally:
        backend.open()
        engine.close(5.0)
