"""The gate as tables: what passes, what does not, and why."""

import math

import pytest

from exporter.errors import UsageError
from exporter.gate import Gate, Measured, judge

_FAST = {1: 1.5, 64: 2.0}


@pytest.mark.parametrize(
    ("measured", "says"),
    [
        (Measured(0.01, 1.0, speedups=_FAST), None),
        (Measured(0.10, 0.99, speedups=_FAST), None),
        (Measured(0.11, 1.0, speedups=_FAST), "11.0% off"),
        (Measured(0.01, 0.98, speedups=_FAST), "agrees on 98.0%"),
        (Measured(0.01, None, speedups=_FAST), None),
        (Measured(0.01, 1.0, 0.960, 0.965, speedups=_FAST), None),
        (Measured(0.01, 1.0, 0.950, 0.965, speedups=_FAST), "falls from 0.9650 to 0.9500"),
        (Measured(0.01, 1.0, 0.970, 0.965, speedups=_FAST), None),
        (Measured(0.01, 1.0, speedups={1: 1.05, 64: 1.09}), "1.09x as fast at best"),
        (Measured(0.01, 1.0, speedups={1: 0.80, 64: 3.0}), "slower: 0.80x at batch 1"),
        (Measured(0.01, 1.0, speedups={1: 0.97, 64: 3.0}), "slower: 0.97x at batch 1"),
        (Measured(0.01, 1.0, speedups={1: 0.97, 64: 3.0}, noise={1: 0.04}), None),
        (Measured(0.01, 1.0, speedups={1: 0.80, 64: 3.0}, noise={1: 0.9}), "slower: 0.80x"),
        (Measured(0.01, 1.0, coupling=0.2, speedups=_FAST), "a row in a batch is 20.0% off"),
        (Measured(0.01, 1.0), None),
        (Measured(math.nan, 1.0, speedups=_FAST), "off"),
        (Measured(math.inf, 1.0, speedups=_FAST), "off"),
        (Measured(0.01, math.nan, speedups=_FAST), "agrees on"),
        (Measured(0.01, 1.0, math.nan, 0.9, speedups=_FAST), "the metric falls"),
        (Measured(0.01, 1.0, speedups={1: math.nan}), "slower"),
    ],
)
def test_the_default_gate(measured: Measured, says: str | None) -> None:
    """It passes what is right and faster, and its reason names the number that failed."""
    verdict = judge(Gate(), measured)
    assert verdict.passed is (says is None)
    assert says is None or says in " ".join(verdict.reasons)


def test_a_gate_below_one_lets_slower_ones_pass() -> None:
    """Who only wants a smaller file says speedup=0, or how slow it may be."""
    slower = Measured(0.01, 1.0, speedups={1: 0.8, 64: 0.9})
    assert judge(Gate(min_speedup=0.75), slower).passed
    assert not judge(Gate(min_speedup=0.85), slower).passed


def test_every_failed_condition_is_told() -> None:
    """A variant that fails in three ways gets three reasons."""
    bad = Measured(0.5, 0.5, 0.1, 0.9, speedups={1: 2.0})
    assert len(judge(Gate(), bad).reasons) == 3


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("drop=0.5%", Gate(max_metric_drop=0.005)),
        ("drop=1% agree=98.5% speedup=1.5x error=5%", Gate(0.01, 0.985, 1.5, 0.05)),
        ("speedup=0,agree=0.9", Gate(min_speedup=0.0, min_agreement=0.9)),
    ],
)
def test_a_gate_in_words(text: str, gate: Gate) -> None:
    """Percent, factors and plain numbers are understood; what is left out keeps its default."""
    assert Gate.parse(text) == gate


@pytest.mark.parametrize(
    "text", ["", "drop", "drop=", "drop=x", "agree=150%", "speed=2", "drop=-1%", "error=nan"]
)
def test_a_gate_that_is_none(text: str) -> None:
    """A condition that is unknown, not a number or out of bounds is refused, not ignored."""
    with pytest.raises(UsageError, match="gate"):
        Gate.parse(text)
