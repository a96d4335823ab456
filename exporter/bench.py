"""Bench: how much faster one file is than another, at each batch, in one process.

The files take turns (A B A B), so that what slows the machine slows both; what counts is the
median of the ratios of neighbouring turns, and their spread says how far to trust it.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from exporter.children import run_child
from exporter.errors import CompressionFailed
from exporter.session import LEVELS
from exporter.variants.kinds import DEFAULT_OPTIONS
from service.repository.manifest import SessionOptions
from service.tensors import Tensors

_TURN_S: Final = 0.004  # of one turn: long enough for the clock, short enough to change places
_MAX_RUNS: Final = 64  # runs in one turn
_NOISY: Final = 0.1  # half the spread of a ratio above which it is measured again, and longer
_MAX_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to time. options: how it is loaded."""

    path: Path
    options: SessionOptions = DEFAULT_OPTIONS


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    budget_s: of one batch, all files together; up to three times that where it is noisy.
    min_turns, max_turns: of each file, in that time.
    threads: of each run, as `penstock serve --intra-op-threads`.
    """

    budget_s: float = 2.0
    min_turns: int = 9
    max_turns: int = 201
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """What one file takes for one batch, against the first file.

    rows: of the batch. median_us: of one run. ratio: median of (first file's time / this one's),
    above 1 is faster; low, high: its quartiles.
    """

    entry: int
    rows: int
    median_us: float
    ratio: float
    low: float
    high: float

    @property
    def noise(self) -> float:
        """Return half the spread of the ratio."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class _Job:
    entries: tuple[Entry, ...]
    feeds: tuple[Tensors, ...]
    effort: Effort


def bench(
    entries: Sequence[Entry],
    feeds: Sequence[Tensors],
    *,
    effort: Effort | None = None,
    timeout_s: float = 600.0,
) -> tuple[Timing, ...]:
    """Time files against the first of them, in a child process.

    feeds: inputs of one run each; rows are those of the first input.
    Raises CompressionFailed if a file does not load or run, ChildCrashed if that ends the child.
    """
    job = _Job(tuple(entries), tuple(feeds), effort or Effort())
    timings: tuple[Timing, ...] = run_child(
        "exporter.bench:measure", (job,), timeout_s=timeout_s, what="timing the variants"
    )
    return timings


def measure(job: _Job) -> tuple[Timing, ...]:
    """Time the files in this process; see `bench`."""
    sessions = [load(entry, job.effort.threads) for entry in job.entries]
    return tuple(
        timing for feed in job.feeds for timing in _measure_feed(sessions, feed, job.effort)
    )


def load(entry: Entry, threads: int) -> Any:
    """Return a session on the CPU, with what the server sets. Raises CompressionFailed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS[entry.options.graph_level]
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(
            str(entry.path),
            sess_options=options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(entry.options.disabled_optimizers) or None,
        )
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise CompressionFailed(
            f"ONNX Runtime does not load {entry.path.name}: {str(error).splitlines()[0]}",
        ) from error


def summarise(
    turns: Sequence[Sequence[float]], rows: int, *, first_entry: int = 0
) -> tuple[Timing, ...]:
    """Return the timing of each file from the seconds of its turns; file 0 is the base.

    turns[i][k]: seconds of one run of file i in turn k; all have the same number of turns.
    """
    timings = []
    for index, taken in enumerate(turns):
        ratios = sorted(base / own for base, own in zip(turns[0], taken, strict=True))
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        timings.append(
            Timing(
                first_entry + index,
                rows,
                statistics.median(taken) * 1e6,
                statistics.median(ratios),
                low,
                high,
            ),
        )
    return tuple(timings)


def _measure_feed(sessions: Sequence[Any], feed: Tensors, effort: Effort) -> tuple[Timing, ...]:
    once = [_warm(session, feed) for session in sessions]
    runs = [max(1, min(_MAX_RUNS, round(_TURN_S / seconds))) for seconds in once]
    round_s = sum(count * seconds for count, seconds in zip(runs, once, strict=True))
    count = max(effort.min_turns, min(effort.max_turns, round(effort.budget_s / round_s)))
    turns: list[list[float]] = [[] for _ in sessions]
    timings: tuple[Timing, ...] = ()
    for _ in range(_MAX_TRIES):
        for _ in range(count):
            for session, repeat, taken in zip(sessions, runs, turns, strict=True):
                taken.append(_turn(session, feed, repeat))
        timings = summarise(turns, _rows(feed))
        if max(timing.noise / timing.ratio for timing in timings) <= _NOISY:
            break
    return timings


def _warm(session: Any, feed: Tensors) -> float:
    """Run until memory is laid out, and return the seconds of one run."""
    for _ in range(2):
        session.run(None, feed)
    return min(_turn(session, feed, 1) for _ in range(3))


def _turn(session: Any, feed: Tensors, runs: int) -> float:
    start = time.perf_counter()
    for _ in range(runs):
        session.run(None, feed)
    return (time.perf_counter() - start) / runs


def _rows(feed: Tensors) -> int:
    first = next(iter(feed.values()))
    return int(first.shape[0]) if first.ndim else 0
