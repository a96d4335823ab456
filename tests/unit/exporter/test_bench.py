"""Timing: what the turns say, and that files are really run."""

from pathlib import Path

import numpy as np
import pytest

from exporter.bench import Effort, Entry, bench, load, summarise
from exporter.errors import CompressionFailed
from service.repository.manifest import SessionOptions
from tests.unit.exporter.graphs import linear


def test_the_ratio_is_of_neighbouring_turns() -> None:
    """A machine that slows down in the middle slows both; the ratio stays."""
    base = [1.0, 1.0, 5.0, 5.0]
    (first, second) = summarise([base, [turn / 2 for turn in base]], rows=8)
    assert (first.ratio, second.ratio) == (1.0, 2.0)
    assert (second.low, second.high, second.noise) == (2.0, 2.0, 0.0)
    assert second.rows == 8


def test_the_spread_is_told() -> None:
    """Half the distance of the quartiles is the noise."""
    (_, timing) = summarise([[1.0] * 5, [1.0, 0.5, 0.4, 0.5, 1.0]], rows=1)
    assert timing.low < timing.ratio == 2.0 < timing.high
    assert timing.noise == pytest.approx((timing.high - timing.low) / 2)
    assert timing.median_us == 0.5e6


def test_one_turn_has_no_spread() -> None:
    """A single turn is its own quartiles."""
    (_, timing) = summarise([[2.0], [1.0]], rows=1)
    assert (timing.low, timing.ratio, timing.high) == (2.0, 2.0, 2.0)


def test_every_file_is_timed_at_every_size(tmp_path: Path) -> None:
    """Two files at two batches in one child: four timings, the first file against itself is 1."""
    entries = [
        Entry(linear(tmp_path / "a.onnx")),
        Entry(linear(tmp_path / "b.onnx", (16, 64, 64, 4)), SessionOptions("basic")),
    ]
    feeds = [{"x": np.ones((rows, 16), np.float32)} for rows in (1, 8)]
    timings = bench(entries, feeds, effort=Effort(budget_s=0.05, min_turns=3), timeout_s=60)
    assert [(t.entry, t.rows) for t in timings] == [(0, 1), (1, 1), (0, 8), (1, 8)]
    assert all(t.ratio == 1.0 for t in timings if t.entry == 0)
    assert all(t.median_us > 0 for t in timings)


def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    """Its name and ONNX Runtime's reason."""
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(CompressionFailed, match=r"does not load bad\.onnx"):
        load(Entry(tmp_path / "bad.onnx"), threads=1)
