"""The gate: which variant of a model may take the place of the one it was made from.

Pure arithmetic over what was measured; knows no files, no sessions and no clock.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from exporter.errors import UsageError

_FIELDS: Final[Mapping[str, str]] = {
    "drop": "max_metric_drop",
    "agree": "min_agreement",
    "speedup": "min_speedup",
    "error": "max_relative_error",
}
_MAX_NOISE: Final = 0.05  # on a machine too busy to measure, slower is not taken for noise
_ROUNDING: Final = 1e-9  # 0.965 - 0.960 is a little more than 0.005 in binary
_FORM: Final = (
    "expected words of the form drop=0.5% agree=99% speedup=1.1 error=10%; each may be left out"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """What a variant must reach to be published.

    max_metric_drop: how far the user's metric may fall, in its own unit (0.005 of an accuracy
    is half a point). min_agreement: share of rows with the same largest score, or of equal
    integers. min_speedup: of the better of batch 1 and the largest batch; at neither may it be
    slower (beyond noise), unless min_speedup itself is below 1. max_relative_error: rms of the
    difference over rms of the reference, of any output.
    """

    max_metric_drop: float = 0.005
    min_agreement: float = 0.99
    min_speedup: float = 1.10
    max_relative_error: float = 0.10

    def __post_init__(self) -> None:
        """Raise UsageError for a gate that nothing or everything would pass by mistake."""
        bounds = {
            "max_metric_drop": (0.0, float("inf")),
            "min_agreement": (0.0, 1.0),
            "min_speedup": (0.0, 1000.0),
            "max_relative_error": (0.0, float("inf")),
        }
        for name, (low, high) in bounds.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"gate: {name} is {value:g}; expected {low:g} to {high:g}")

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Return the gate of `--gate`: drop=0.5% agree=99% speedup=1.1 error=10%.

        Raises UsageError for a word that it does not know.
        """
        given: dict[str, float] = {}
        for word in re.split(r"[\s,]+", text.strip()):
            key, equals, value = word.partition("=")
            if not equals or key not in _FIELDS:
                raise UsageError(f"--gate {text!r}: {word!r} is no condition; {_FORM}")
            given[_FIELDS[key]] = _number(text, value)
        return replace(cls(), **given)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of a variant against the model it was made from.

    agreement: None if no output has classes or integers to agree on. metric, baseline_metric:
    the user's metric, higher is better; None without one. coupling: how far a row in a batch is
    from the same row alone, rms over rms. speedups: ratio of the medians by
    batch; empty where speed cannot be measured (a model for a device that is not here).
    noise: half the spread of the ratios by batch.
    """

    relative_error: float
    agreement: float | None = None
    metric: float | None = None
    baseline_metric: float | None = None
    coupling: float = 0.0
    speedups: Mapping[int, float] | None = None
    noise: Mapping[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a variant passed. reasons: why not, one sentence each."""

    passed: bool
    reasons: tuple[str, ...] = ()


def judge(gate: Gate, measured: Measured) -> Verdict:
    """Tell whether a variant is as right as the gate demands, and faster.

    Values that are not numbers (a model that answers NaN) pass no gate.
    """
    reasons = [*_wrong(gate, measured), *_slow(gate, measured)]
    return Verdict(not reasons, tuple(reasons))


def _wrong(gate: Gate, measured: Measured) -> list[str]:
    reasons = []
    # `not a <= b` rather than `a > b`: NaN must not pass.
    if not measured.relative_error <= gate.max_relative_error:
        reasons.append(
            f"its outputs are {measured.relative_error:.1%} off (rms); the gate allows "
            f"{gate.max_relative_error:.1%}",
        )
    if not measured.coupling <= gate.max_relative_error:
        reasons.append(
            f"a row in a batch is {measured.coupling:.1%} off the same row alone (rms); the gate "
            f"allows {gate.max_relative_error:.1%}",
        )
    if measured.agreement is not None and not measured.agreement >= gate.min_agreement:
        reasons.append(
            f"it agrees on {measured.agreement:.1%} of the rows; the gate demands "
            f"{gate.min_agreement:.1%}",
        )
    if measured.metric is not None and measured.baseline_metric is not None:
        drop = measured.baseline_metric - measured.metric
        if not drop <= gate.max_metric_drop + _ROUNDING:
            reasons.append(
                f"the metric falls from {measured.baseline_metric:.4f} to {measured.metric:.4f}; "
                f"the gate allows a drop of {gate.max_metric_drop:g}",
            )
    return reasons


def _slow(gate: Gate, measured: Measured) -> list[str]:
    if not measured.speedups:
        return []
    noise = measured.noise or {}
    least = min(1.0, gate.min_speedup)
    slower = [
        f"{ratio:.2f}x at batch {batch}"
        for batch, ratio in measured.speedups.items()
        if not ratio >= least - min(noise.get(batch, 0.0), _MAX_NOISE)
    ]
    if slower:
        return [f"it is slower: {', '.join(slower)}"]
    best = max(measured.speedups.values())
    if not best >= gate.min_speedup:
        return [f"it is {best:.2f}x as fast at best; the gate demands {gate.min_speedup:.2f}x"]
    return []


def _number(text: str, value: str) -> float:
    try:
        if value.endswith("%"):
            return float(value[:-1]) / 100
        return float(value.removesuffix("x"))
    except ValueError:
        raise UsageError(f"--gate {text!r}: {value!r} is no number; {_FORM}") from None
