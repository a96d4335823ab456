"""Which of the measured loads to run at. Pure.

The knee is the load with the greatest power, throughput over mean latency (Kleinrock, 1979). In a
closed loop that is throughput squared over the requests in flight: beyond the knee, twice as many
in flight bring less than 1.41 times the throughput, and the rest of them only wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_MOST_FAILED: Final = 0.01  # a load at which more of the requests fail is not recommended


@dataclass(frozen=True, slots=True)
class Point:
    """One measured load. failed: share of the requests."""

    per_second: float
    mean_s: float
    p99_s: float
    failed: float = 0.0


@dataclass(frozen=True, slots=True)
class Advice:
    """Indices of the knee and of the recommended load, with the reason in words."""

    knee: int | None
    recommended: int | None
    reason: str


def advise(points: Sequence[Point], latency_limit_s: float | None = None) -> Advice:
    """Return the knee of loads in ascending order, and which one to run at.

    latency_limit_s: recommend the highest throughput whose p99 is within it; None: the knee.
    """
    usable = [
        index
        for index, point in enumerate(points)
        if point.per_second > 0 and point.mean_s > 0 and point.failed <= _MOST_FAILED
    ]
    if not usable:
        return Advice(None, None, "no load was answered without failures")
    # max takes the first of equals, which is the lower load.
    knee = max(usable, key=lambda index: points[index].per_second / points[index].mean_s)
    if latency_limit_s is None:
        return Advice(knee, knee, "the knee: the most throughput for its latency")
    within = [index for index in usable if points[index].p99_s <= latency_limit_s]
    limit = f"{latency_limit_s * 1e3:g} ms"
    if not within:
        return Advice(knee, None, f"no load has a p99 within {limit}")
    best = max(within, key=lambda index: points[index].per_second)
    return Advice(knee, best, f"the highest throughput with a p99 within {limit}")
