"""The choice: makes the variants that may pay, measures them, and takes the best that passes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

from exporter.bench import Entry, Timing, bench
from exporter.errors import ChildCrashed, CompressionFailed, GateFailed
from exporter.gate import Gate, Verdict, judge
from exporter.variants.calibration import Calibration
from exporter.variants.graph import facts_of
from exporter.variants.kinds import (
    AUTO,
    DEFAULT_OPTIONS,
    INT8_DYNAMIC,
    NONE,
    check_request,
    sensible,
    session_candidates,
)
from exporter.variants.report import CompressionReport, Trial, geometric_mean
from exporter.variants.subject import Evaluate, ProofCase, Subject, subject_of
from exporter.variants.trials import Progress, try_kind
from service.repository.manifest import SessionOptions
from service.tensors import Tensors

FP32: Final = "fp32"
_COUPLED: Final = 1.1  # how much faster dynamic int8 must be than static to be taken
_UNTIMED: Final = "speed was not measured: variants for a GPU were only compared, on this CPU"
_WORTH: Final = 1.03  # what other session options than the default must gain, to be more than noise

Timer: TypeAlias = Callable[[Sequence[Entry], Sequence[Tensors]], Sequence[Timing]]


@dataclass(frozen=True, slots=True)
class Choice:
    """The file to publish. variant: its kind, "fp32" for the model as it was."""

    path: Path
    variant: str
    session: SessionOptions
    report: CompressionReport


def compress(  # noqa: PLR0913 (each argument is a decision of the user's, and has a default)
    model: Path,
    directory: Path,
    *,
    cases: Sequence[ProofCase],
    request: str = AUTO,
    calibration: Calibration | None = None,
    evaluate: Evaluate | None = None,
    gate: Gate | None = None,
    device: str = "cpu",
    timeout_s: float = 600.0,
    timer: Timer | None = None,
    progress: Progress | None = None,
) -> Choice:
    """Try the variants that `request` names and return the best that passes the gate.

    model: a proved file; it is not changed. directory: gets one directory for each variant, with
    a model.onnx in it. cases: of the proof; every variant runs them, and batch 1 and the largest
    are timed. request: auto, none, or one of KINDS. calibration: real inputs, which also judge
    the agreement; without them the cases do. evaluate: the user's metric, higher is better; it
    gets a function from inputs to outputs. timer: in place of `bench`.

    Raises GateFailed if a variant that was asked for by name does not pass; CompressionFailed or
    ChildCrashed if it cannot be made; UsageError for calibration data that does not fit and an
    evaluation that fails. With auto, what fails is told in the report and fp32 is taken.
    """
    check_request(request, device, calibrated=calibration is not None)
    limit = gate or Gate()
    if request == NONE:
        report = CompressionReport(request, device, limit, facts_of(model).file_bytes)
        return Choice(model, FP32, DEFAULT_OPTIONS, report)
    say = progress or (lambda _line: None)
    say("asking the model for the answers that its variants must give")
    subject = subject_of(model, cases, calibration, evaluate, timeout_s)
    kinds: tuple[str, ...] = (request,)
    if request == AUTO:
        kinds = sensible(subject.facts, calibrated=calibration is not None, device=device)
    trials = [
        trial
        for kind in kinds
        for trial in try_kind(kind, subject, directory, limit, timeout_s, say)
    ]
    report = CompressionReport(
        request, device, limit, subject.facts.file_bytes, baseline_metric=subject.metric,
        trials=tuple(trials), reason="" if kinds else _nothing_to_try(subject, device),
    )  # fmt: skip
    if device == "cpu":
        report = _timed(report, subject, timer or _timer(timeout_s), say)
    elif kinds:
        report = replace(report, reason=_UNTIMED)
    return _chosen(report, subject)


def _timed(
    report: CompressionReport, subject: Subject, timer: Timer, say: Progress
) -> CompressionReport:
    """Time what is right, with each session options that may help, and judge it again."""
    others = session_candidates(subject.facts)
    right = [trial.variant for trial in report.trials if trial.verdict.passed and trial.variant]
    if not right and (report.request != AUTO or not others):
        return report
    say("timing what is right")
    entries = [Entry(subject.model)] + [Entry(subject.model, options) for options in others]
    for variant in right:
        # One that only loads with options of its own would crash the process with others.
        more = others if variant.options == DEFAULT_OPTIONS else ()
        entries += [Entry(variant.path, options) for options in (variant.options, *more)]
    try:
        timings = timer(entries, subject.timed)
    except (ChildCrashed, CompressionFailed) as error:
        if report.request != AUTO:
            raise
        return _untimed(report, f"they cannot be timed: {error}")
    base_options, baseline = _fastest(subject.model, entries, timings)
    trials = tuple(_judged(trial, entries, timings, report.gate) for trial in report.trials)
    return replace(report, baseline_options=base_options, baseline=baseline, trials=trials)


def _untimed(report: CompressionReport, reason: str) -> CompressionReport:
    """Refuse every variant, because none may be published that could be slower."""
    refused = Verdict(passed=False, reasons=(reason,))
    trials = (replace(t, verdict=refused) if t.verdict.passed else t for t in report.trials)
    return replace(report, trials=tuple(trials))


def _judged(trial: Trial, entries: Sequence[Entry], timings: Sequence[Timing], gate: Gate) -> Trial:
    if not trial.verdict.passed or trial.variant is None or trial.measured is None:
        return trial
    options, own = _fastest(trial.variant.path, entries, timings)
    measured = replace(
        trial.measured,
        speedups={timing.rows: timing.ratio for timing in own},
        noise={timing.rows: timing.noise for timing in own},
    )
    return replace(
        trial, options=options, timings=own, measured=measured, verdict=judge(gate, measured)
    )


def _fastest(
    path: Path, entries: Sequence[Entry], timings: Sequence[Timing]
) -> tuple[SessionOptions, tuple[Timing, ...]]:
    """Return the session options that a file is fastest with, its first unless others gain."""
    found = [
        (entry.options, tuple(timing for timing in timings if timing.entry == index))
        for index, entry in enumerate(entries)
        if entry.path == path
    ]
    best, first = max(found, key=lambda pair: _gain(pair[1])), found[0]
    # The lower quartiles must say so too: on a busy machine a median alone is luck.
    gains = _gain(best[1]) >= _WORTH * _gain(first[1]) and _worst(best[1]) > _worst(first[1])
    return best if gains else first


def _chosen(report: CompressionReport, subject: Subject) -> Choice:
    """Take the fastest that passed; raise if it was asked for by name and did not."""
    passed = [trial for trial in report.trials if trial.verdict.passed and trial.variant]
    if not passed and report.request != AUTO:
        _refuse(report)
    best = max(passed, key=_preference, default=None)
    is_named = report.request != AUTO
    if best is None or best.variant is None:
        return Choice(subject.model, FP32, report.baseline_options, report)
    if not is_named and _gain(best.timings) < _gain(report.baseline):
        reason = f"{best.name} passed, but the model gains more from its session options"
        return Choice(subject.model, FP32, report.baseline_options, replace(report, reason=reason))
    options = best.options if best.timings else best.variant.options
    report = replace(report, chosen=best.name)
    return Choice(best.variant.path, best.variant.kind, options, report)


def _preference(trial: Trial) -> float:
    """Return the speed of a variant, less where the rows of a batch depend on each other.

    In dynamic int8 a row of large values costs the others of its batch their precision: another
    client's row, on a server. Static int8 is taken unless it is clearly slower.
    """
    is_dynamic = trial.variant is not None and trial.variant.kind == INT8_DYNAMIC
    return _gain(trial.timings) / (_COUPLED if is_dynamic else 1.0)


def _refuse(report: CompressionReport) -> None:
    for trial in report.trials:
        if trial.failure is not None and len(report.trials) == 1:
            raise trial.failure
    reasons = "; ".join(_sentences(report.trials))
    raise GateFailed(
        f"{report.request} is not published: {reasons}. Take --quantize auto, which keeps fp32 "
        "where nothing is better, or widen --gate",
    )


def _sentences(trials: Sequence[Trial]) -> Iterator[str]:
    for trial in trials:
        for reason in trial.verdict.reasons:
            yield reason if len(trials) == 1 else f"{trial.name}: {reason}"


def _nothing_to_try(subject: Subject, device: str) -> str:
    operators = subject.facts.operators
    if device == "cpu" and subject.data is None and ("Conv" in operators or "MatMul" in operators):
        return (
            "nothing was tried: a model with convolutions, or few linear layers, only gains from "
            "static int8, which needs --calibration"
        )
    return "nothing was tried: the graph has no linear layers and no convolutions to quantise"


def _gain(timings: Sequence[Timing]) -> float:
    return geometric_mean([timing.ratio for timing in timings])


def _worst(timings: Sequence[Timing]) -> float:
    return geometric_mean([timing.low for timing in timings])


def _timer(timeout_s: float) -> Timer:
    return lambda entries, feeds: bench(entries, feeds, timeout_s=timeout_s)
