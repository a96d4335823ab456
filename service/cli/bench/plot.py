"""A picture: latency over throughput, the knee marked. Needs matplotlib, which is optional."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from service.cli.bench.knee import Advice
from service.cli.bench.result import Level
from service.cli.usage import UsageError

_SIZE_INCHES: Final = (8.0, 5.0)
_DPI: Final = 110
_LINES: Final = (
    ("p50", "p50_s", "#2166ac", "o"),
    ("p99", "p99_s", "#d6604d", "s"),
    ("p99.9", "p999_s", "#878787", "^"),
)


def check_matplotlib() -> None:
    """Raise UsageError if there is nothing to draw with."""
    if find_spec("matplotlib") is None:
        raise UsageError(
            "--plot needs matplotlib, which is not installed: `pip install 'penstock[bench]'`, "
            "or `pip install matplotlib`"
        )


def _readable(value: float, _position: int) -> str:
    """Return the label of a tick: plain numbers, of the minor ones those that start with 2 or 5."""
    digit = f"{value:e}"[0]
    return f"{value:,g}" if digit in "125" else ""


def draw(path: str, title: str, levels: Sequence[Level], advice: Advice) -> None:
    """Write the picture. Raises UsageError if it cannot be written, or is of no known kind."""
    from matplotlib.figure import Figure  # noqa: PLC0415  optional, and slow to import

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    answered = [level for level in levels if level.answered]
    rates = [level.per_second for level in answered]
    for label, name, colour, marker in _LINES:
        values = [getattr(level.latency, name) * 1e3 for level in answered]
        axes.plot(rates, values, color=colour, marker=marker, markersize=5, label=label)
    for level in answered:
        axes.annotate(
            str(level.load),
            (level.per_second, level.latency.p50_s * 1e3),
            textcoords="offset points",
            xytext=(0, -14),
            ha="center",
            fontsize=8,
        )
    if advice.knee is not None:
        knee = levels[advice.knee]
        label = f"knee: load {knee.load}, {knee.per_second:,.0f} requests/s"
        axes.axvline(knee.per_second, color="#4d4d4d", linestyle="--", linewidth=1, label=label)
    if answered:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.margins(0.08)
    for axis in (axes.xaxis, axes.yaxis):
        for which in ("major", "minor"):
            # Of a range below a decade the major ticks alone would be one or none.
            getattr(axis, f"set_{which}_formatter")(_readable)
    axes.set_xlabel("throughput, requests/s")
    axes.set_ylabel("latency, ms")
    axes.set_title(title, fontsize=10)
    axes.grid(visible=True, which="both", linewidth=0.3)
    axes.legend(fontsize=8)
    try:
        figure.savefig(Path(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"--plot {path}: cannot be written: {error}") from error
