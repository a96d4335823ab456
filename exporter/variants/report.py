"""What came of a compression, for people and for programs."""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from exporter.bench import Timing
from exporter.errors import ExportError
from exporter.gate import Gate, Measured, Verdict
from exporter.variants.kinds import DEFAULT_OPTIONS, Variant, described
from service.repository.manifest import SessionOptions

_CPU_INFO: Final = Path("/proc/cpuinfo")
_FLAGS: Final = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")


@dataclass(frozen=True, slots=True)
class Trial:
    """One variant and what became of it.

    variant: None if it was not made. measured: None if its answers were not compared.
    agreement: also where it is measured on random data, which the gate does not judge.
    options: the session options that it was fastest with. timings: at batch 1 and the largest.
    """

    name: str
    verdict: Verdict
    variant: Variant | None = None
    measured: Measured | None = None
    agreement: float | None = None
    options: SessionOptions = DEFAULT_OPTIONS
    timings: tuple[Timing, ...] = ()
    failure: ExportError | None = None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return why it was refused, or what to know of it."""
        note = (self.variant.note,) if self.variant and self.variant.note else ()
        return self.verdict.reasons or note

    def to_json(self) -> dict[str, Any]:
        """Return it as report.json writes it."""
        made, found = self.variant, self.measured
        return {
            "name": self.name,
            "passed": self.verdict.passed,
            "reasons": list(self.verdict.reasons),
            "file_bytes": made.file_bytes if made else None,
            "changed_operators": dict(made.changed) if made else {},
            "note": made.note if made else "",
            "session": asdict(self.options),
            "relative_error": found.relative_error if found else None,
            "agreement": self.agreement,
            "agreement_judged": found is not None and found.agreement is not None,
            "metric": found.metric if found else None,
            "coupling": found.coupling if found else None,
            "speed": [_speed(timing) for timing in self.timings],
        }


@dataclass(frozen=True, slots=True)
class CompressionReport:
    """What was asked for, what was tried and what was taken.

    baseline: timings of the model itself with the options that it is fastest with. reason: why
    nothing was tried, "" if something was.
    """

    request: str
    device: str
    gate: Gate
    file_bytes: int
    chosen: str = "fp32"
    baseline_options: SessionOptions = DEFAULT_OPTIONS
    baseline_metric: float | None = None
    baseline: tuple[Timing, ...] = ()
    trials: tuple[Trial, ...] = ()
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as report.json writes it."""
        return {
            "request": self.request,
            "device": self.device,
            "gate": asdict(self.gate),
            "chosen": self.chosen,
            "session": asdict(self.baseline_options),
            "file_bytes": self.file_bytes,
            "metric": self.baseline_metric,
            "speed": [_speed(timing) for timing in self.baseline],
            "trials": [trial.to_json() for trial in self.trials],
            "reason": self.reason,
            "cpu": cpu_facts(),
        }

    def rows(self) -> tuple[tuple[str, ...], list[list[str]]]:
        """Return the heads and the lines of a table: the model as it is, then each trial."""
        batches = [timing.rows for timing in self.baseline]
        heads = ("variant", "size", "error", "agree", "metric",
                 *(f"b{rows}" for rows in batches), "options", "result")  # fmt: skip
        lines = [
            ["fp32", _size(self.file_bytes), "-", "-", _number(self.baseline_metric),
             *(_ratio(timing) for timing in self.baseline),
             described(self.baseline_options),
             "chosen" if self.chosen == "fp32" else "base"],
        ]  # fmt: skip
        return heads, lines + [self._line(trial, len(batches)) for trial in self.trials]

    def to_markdown(self) -> str:
        """Return a table for report.md, and why it came out so."""
        heads, lines = self.rows()
        table = [heads, ["---"] * len(heads), *lines]
        text = "\n".join(f"| {' | '.join(line)} |" for line in table)
        reasons = [f"- {trial.name}: {reason}" for trial in self.trials for reason in trial.remarks]
        return "\n".join((text, "", *reasons, *([self.reason] if self.reason else []))) + "\n"

    def _line(self, trial: Trial, batches: int) -> list[str]:
        found = trial.measured
        speeds = [_ratio(timing) for timing in trial.timings] or ["-"] * batches
        result = "chosen" if trial.name == self.chosen else "passed"
        return [
            trial.name,
            _size(trial.variant.file_bytes) if trial.variant else "-",
            f"{found.relative_error:.2%}" if found else "-",
            f"{trial.agreement:.1%}" if trial.agreement is not None else "-",
            _number(found.metric) if found else "-",
            *speeds,
            described(trial.options),
            result if trial.verdict.passed else "refused",
        ]


def cpu_facts() -> dict[str, Any]:
    """Return what the figures of int8 hang on: the instructions that this CPU has."""
    try:
        words = set(_CPU_INFO.read_text(encoding="ascii", errors="replace").split())
    except OSError:  # not Linux
        words = set()
    return {"machine": platform.machine(), "flags": [flag for flag in _FLAGS if flag in words]}


def geometric_mean(ratios: Sequence[float]) -> float:
    """Return the mean of ratios as ratios average: 2x and 0.5x are 1x."""
    product = 1.0
    for ratio in ratios:
        product *= ratio
    return float(product ** (1 / len(ratios))) if ratios else 1.0


def _speed(timing: Timing) -> dict[str, float]:
    return {
        "rows": timing.rows,
        "median_us": round(timing.median_us, 2),
        "ratio": round(timing.ratio, 3),
        "low": round(timing.low, 3),
        "high": round(timing.high, 3),
    }


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} KB"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _ratio(timing: Timing) -> str:
    return f"{timing.ratio:.2f}x [{timing.low:.2f}, {timing.high:.2f}]"
