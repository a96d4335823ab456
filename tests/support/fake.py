"""A backend whose runs wait for the test, and a clock that the test moves."""

import threading
from collections.abc import Sequence

import numpy as np

from service.errors import BackendError, BackendInterrupted
from service.inference.backend import Interrupt
from service.tensors import FP32, Signature, Tensors, TensorSpec

WAIT_S = 20.0  # a gate that nobody opens is a fault of the test

BATCHED = Signature((TensorSpec("X", FP32, (-1, -1)),), (TensorSpec("Y", FP32, (-1, -1)),), True)
SINGLE = Signature((TensorSpec("X", FP32, (-1, -1)),), (TensorSpec("Y", FP32, (-1, -1)),), False)


class ManualClock:
    """Seconds that pass only when `advance` is called."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the present."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class FakeBackend:
    """Y is X times two. Each run stands at a gate until the test lets it pass.

    batches: column 0 of X of every run, in order. poison: values that make a run fail.
    """

    def __init__(self, signature: Signature = BATCHED, *, is_open: bool = False) -> None:
        self.signature = signature
        self.batches: list[list[float]] = []
        self.poison: set[float] = set()
        self.breaks_contract = False
        self.interrupted = 0
        self.closed = 0
        self._is_open = is_open
        self._permits = 0
        self._standing: list[Interrupt] = []
        self.changed = threading.Condition()

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run once the gate is passed; see Backend.run."""
        values = inputs["X"][:, 0].tolist()
        self._pass_gate(values, interrupt)
        if interrupt.requested:
            self.interrupted += 1
            raise BackendInterrupted("stopped")
        if self.poison & set(values):
            raise BackendError("poison")
        result = inputs["X"] * 2
        return dict.fromkeys(outputs, result[:-1] if self.breaks_contract else result)

    def close(self) -> None:
        """Count that it was closed."""
        self.closed += 1

    def permit(self, runs: int = 1) -> None:
        """Let so many runs pass, those that stand at the gate first."""
        with self.changed:
            self._permits += runs
            self.changed.notify_all()

    def open(self) -> None:
        """Let every run pass from now on."""
        with self.changed:
            self._is_open = True
            self.changed.notify_all()

    def shut(self) -> None:
        """Let runs stand at the gate from now on."""
        with self.changed:
            self._is_open = False

    @property
    def stands(self) -> bool:
        """True while a run waits at the gate that neither a permit nor an interrupt lets pass."""
        waiting = sum(not interrupt.requested for interrupt in self._standing)
        return not self._is_open and waiting > self._permits

    def wait_for_batches(self, count: int) -> None:
        """Wait until so many runs have begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.batches) >= count, WAIT_S), self.batches

    def _pass_gate(self, values: list[float], interrupt: Interrupt) -> None:
        with self.changed:
            self.batches.append(values)
            self._standing.append(interrupt)
            self.changed.notify_all()
        interrupt.bind(self._wake)
        with self.changed:
            passes = self.changed.wait_for(
                lambda: self._is_open or self._permits > 0 or interrupt.requested, WAIT_S
            )
            assert passes, "nobody opened the gate"
            self._standing.remove(interrupt)
            if not self._is_open and not interrupt.requested:
                self._permits -= 1
            self.changed.notify_all()

    def _wake(self) -> None:
        with self.changed:
            self.changed.notify_all()


def row(value: float, rows: int = 1, width: int = 2) -> Tensors:
    """Return inputs whose every element is value."""
    return {"X": np.full((rows, width), value, np.float32)}
