"""When a measurement is stable: three windows in a row agree. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WINDOWS: Final = 3
LEAST_ANSWERS: Final = 100  # in a window: of fewer, the p99 is only the largest


@dataclass(frozen=True, slots=True)
class Window:
    """What matters of one window."""

    per_second: float
    p99_s: float


def agree(windows: Sequence[Window], agreement: float) -> bool:
    """Tell whether the last three windows lie no further apart than a share of their mean."""
    last = windows[-WINDOWS:]
    return len(last) == WINDOWS and all(
        _spread([getattr(window, name) for window in last]) <= agreement
        for name in ("per_second", "p99_s")
    )


def most_windows(time_s: float, window_s: float) -> int:
    """Return how many windows fit into a time, whatever the last digit of their quotient."""
    return math.floor(time_s / window_s + 1e-6)


def _spread(values: Sequence[float]) -> float:
    """Return the range as a share of the mean; windows without any answer do not agree."""
    mean = sum(values) / len(values)
    return (max(values) - min(values)) / mean if mean > 0 else float("inf")
