"""After the proof: a smaller variant where one is better, and processing around the model.

compress -> compose -> compare again. What is published is the file that was compared last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from exporter.cases import Case, Limits
from exporter.check import served_signature
from exporter.compose import compose, free_axes, pick_names, processed_cases
from exporter.errors import CompressionFailed
from exporter.flow import Converted, Proven
from exporter.inputs import Input, Inputs
from exporter.package import SOURCE_VARIANT
from exporter.plan import Finished, Plan
from exporter.progress import Steps
from exporter.proof import Agreement, compare, prove_parity, prove_rows
from exporter.variants.agreement import closeness
from exporter.variants.choose import FP32, Choice, compress
from exporter.variants.kinds import DEFAULT_OPTIONS, NONE
from exporter.variants.remote import RemoteSession
from exporter.verify import proved_axes
from service.repository.manifest import MODEL_FILE, Parity, Tolerance

# What the golden pairs of a variant allow, on whatever CPU they are replayed: without VNNI the
# kernels of ONNX Runtime saturate sums in 16 bits that VNNI keeps.
LOSSY: Final = Tolerance(relative=5e-2, absolute=1e-3)


def finish(
    converted: Converted,
    proven: Proven,
    plan: Plan,
    work: Path,
    steps: Steps,
    *,
    limits: Limits,
    timeout_s: float,
) -> Finished:
    """Compress and compose what the plan says, and compare again after each.

    work: a directory for the files that are made. Raises as `compress` and `compose` do, and
    VerificationFailed if the composed file computes something else.
    """
    finished = Finished(proven, converted.cases, proven.tolerance)
    if plan.quantize != NONE:
        with steps.step("variants"):
            choice = compress(
                proven.model, work / "variants", cases=converted.cases, request=plan.quantize,
                calibration=plan.calibration, evaluate=plan.evaluate, gate=plan.gate,
                device=plan.device, timeout_s=timeout_s, progress=steps.say,
            )  # fmt: skip
            finished = _with_choice(finished, choice, timeout_s)
    if plan.processing.changes_input or plan.processing.changes_output:
        with steps.step("processing", "putting pre- and post-processing into the graph"):
            finished = _Composition(plan, proven, finished, work / "composed", timeout_s).done(
                converted.inputs, limits
            )
    return finished


def _with_choice(finished: Finished, choice: Choice, timeout_s: float) -> Finished:
    """Return the chosen variant with its own answers, and how far they are from the source's."""
    finished = replace(finished, session=choice.session, report=choice.report)
    if choice.variant == FP32:
        return finished
    with RemoteSession(choice.path, choice.session, timeout_s=timeout_s) as session:
        answers = _answers(session, finished.cases)
    measured = next(trial for trial in choice.report.trials if trial.name == choice.report.chosen)
    return replace(
        finished,
        proven=replace(
            finished.proven,
            model=choice.path,
            agreement=Agreement(_parity(answers, finished.cases)),
        ),
        cases=_golden(answers),
        tolerance=LOSSY,
        variant=choice.variant,
        gate=_without_times(measured.to_json()),
    )


class _Composition:
    """Pre- and post-processing around the proved file, and around the variant that was chosen."""

    def __init__(
        self, plan: Plan, proven: Proven, finished: Finished, work: Path, timeout_s: float
    ) -> None:
        self._plan = plan
        self._source = proven
        self._finished = finished
        self._work = work
        self._timeout_s = timeout_s
        self._names = pick_names(proven.model, plan.input_name, plan.output_name)

    def done(self, inputs: Inputs, limits: Limits) -> Finished:
        """Return the composed file, proved against the same processing in numpy.

        The proof is of the faithful file; a variant is composed in the same way, and its answers
        compared with those as the gate compared them before.
        """
        finished, lossless = self._finished, self._compose(self._source.model, "source")
        is_lossy = finished.variant != SOURCE_VARIANT
        options = DEFAULT_OPTIONS if is_lossy else finished.session
        with RemoteSession(self._source.model, options, timeout_s=self._timeout_s) as plain:
            cases = processed_cases(
                plain.run, self._finished.cases, self._plan.processing,
                input_name=self._names[0], output_name=self._names[1],
            )  # fmt: skip
        with RemoteSession(lossless, options, timeout_s=self._timeout_s) as session:
            agreement = prove_parity(session.run, cases, self._source.tolerance)
            prove_rows(session.run, cases, self._source.tolerance)
            specs = session.input_specs, session.output_specs
        model, golden = lossless, cases
        if is_lossy:
            model = self._compose(finished.proven.model, finished.variant)
            with RemoteSession(model, finished.session, timeout_s=self._timeout_s) as session:
                answers = _answers(session, cases)
            _check_sound(answers, cases)
            agreement, golden = Agreement(_parity(answers, cases)), _golden(answers)
        proven = Proven(
            model, *specs, served_signature(model, *specs),
            proved_axes(self._inputs(inputs, lossless, cases), cases, limits),
            finished.proven.tolerance, agreement,
        )  # fmt: skip
        labelled = f"{self._names[1]}_indices" if self._plan.processing.top_k else ""
        return replace(finished, proven=proven, cases=golden, labelled=labelled)

    def _compose(self, model: Path, what: str) -> Path:
        target = self._work / what / MODEL_FILE
        target.parent.mkdir(parents=True, exist_ok=True)
        compose(
            model, target, self._plan.processing,
            input_name=self._names[0], output_name=self._names[1],
        )  # fmt: skip
        return target

    def _inputs(self, inputs: Inputs, model: Path, cases: Sequence[Case]) -> Inputs:
        """Return the inputs as clients see them: the processed one has axes of its own."""
        name = self._names[0]
        return tuple(
            Input(name, cases[0].inputs[name], free_axes(model, name))
            if item.name == name and self._plan.processing.changes_input
            else item
            for item in inputs
        )


def _answers(session: RemoteSession, cases: Sequence[Case]) -> tuple[Case, ...]:
    return tuple(replace(case, outputs=session.run(case.inputs)) for case in cases)


def _golden(answers: Sequence[Case]) -> tuple[Case, ...]:
    """Return what the server may replay: whole numbers of a lossy file may differ on other CPUs.

    They are left out where there is something else to compare.
    """
    floats = [n for n, a in answers[0].outputs.items() if np.issubdtype(a.dtype, np.floating)]
    if not floats:
        return tuple(answers)
    return tuple(replace(c, outputs={n: c.outputs[n] for n in floats}) for c in answers)


def _parity(answers: Sequence[Case], cases: Sequence[Case]) -> tuple[Parity, ...]:
    """Return how far the answers are from those of the source, the worst of each batch size."""
    worst: dict[tuple[int, str], Parity] = {}
    for got, want in zip(answers, cases, strict=True):
        for name, reference in want.outputs.items():
            found = compare(got.outputs[name], reference, LOSSY)
            known = worst.get((want.rows, name))
            if known is None or found.max_rel >= known.max_rel:
                worst[want.rows, name] = Parity(want.rows, name, found.max_abs, found.max_rel)
    return tuple(worst.values())


def _check_sound(answers: Sequence[Case], cases: Sequence[Case]) -> None:
    found = closeness([case.outputs for case in answers], [case.outputs for case in cases])
    if not np.isfinite(found.relative_error):
        raise CompressionFailed(
            "with its processing the variant answers NaN or infinity where the model answers "
            "numbers",
        )


def _without_times(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured of a variant without what differs from run to run."""
    return {key: value for key, value in trial.items() if key not in ("speed", "session", "name")}
