"""A load that answers as it is told, and samples made by hand."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class FakeSample:
    """A sample whose durations of one kind are all alike."""

    answered: int = 1000
    seconds: float = 1.0
    latency_s: float = 1e-3
    lag_s: float = 0.0
    failures: list[tuple[int, int, str]] = field(default_factory=list)
    usage: list[tuple[float, float, float]] = field(default_factory=lambda: [(0.1, 0.2, 0.0)])
    stream_limit: int | None = None
    reconnects: int = 0
    timings_s: tuple[float, ...] = ()

    @property
    def series(self) -> list[int]:
        """All answers lie in the first of two seconds."""
        return [self.answered, 0]

    def count(self, kind: str) -> int:
        """Return how many durations there are."""
        return self.answered if self._value(kind) else 0

    def quantile_s(self, kind: str, _quantile: float) -> float:
        """Return the value that all have."""
        return self._value(kind)

    def mean_s(self, kind: str) -> float:
        """Return the value that all have."""
        return self._value(kind)

    def max_s(self, kind: str) -> float:
        """Return the value that all have."""
        return self._value(kind)

    def then(self, later: "FakeSample") -> "FakeSample":
        """Return both as one."""
        return FakeSample(
            self.answered + later.answered,
            self.seconds + later.seconds,
            max(self.latency_s, later.latency_s),
            failures=self.failures + later.failures,
        )

    def _value(self, kind: str) -> float:
        if kind.startswith("timing "):
            index = int(kind.removeprefix("timing "))
            return self.timings_s[index] if index < len(self.timings_s) else 0.0
        return self.latency_s if kind == "latency" else self.lag_s


@dataclass
class FakeLoad:
    """Gives its samples one after another, the first to the warm-up. An exception is raised."""

    samples: list[FakeSample | BaseException]
    calls: list[str] = field(default_factory=list)

    def start(self) -> None:
        """Begin."""
        self.calls.append("start")

    def take(self) -> Any:
        """Return the next sample."""
        self.calls.append("take")
        sample = self.samples.pop(0)
        if isinstance(sample, BaseException):
            raise sample
        return sample

    def stop(self, timeout_s: float = 1.0) -> None:
        """End."""
        del timeout_s
        self.calls.append("stop")
