"""The trial of a variant: whether it answers as the model does.

Cheapest refusal first: is it made, did it change anything, does it load, is it as right as the
model. How fast it is, is measured for all of them together.
"""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from exporter.errors import ChildCrashed, CompressionFailed
from exporter.gate import Gate, Measured, Verdict, judge
from exporter.variants.agreement import Closeness, closeness
from exporter.variants.kinds import INT8_STATIC
from exporter.variants.make import METHODS, Job, run_job
from exporter.variants.remote import RemoteSession
from exporter.variants.report import Trial
from exporter.variants.subject import Subject, score
from service.repository.manifest import MODEL_FILE
from service.tensors import Tensors

_ROWS_ALONE: Final = 4  # rows of the largest batch that are run alone

Progress: TypeAlias = Callable[[str], None]


def try_kind(
    kind: str, subject: Subject, directory: Path, gate: Gate, timeout_s: float, say: Progress
) -> list[Trial]:
    """Make a kind of variant and judge its answers.

    Static int8 gets a second trial, without rare extremes, where the first is not right enough.
    """
    trials: list[Trial] = []
    teach = subject.data.teach if subject.data and kind == INT8_STATIC else ()
    for method in METHODS if kind == INT8_STATIC else METHODS[:1]:
        name = kind if method == METHODS[0] else f"{kind}-{method}"
        say(f"making {name}")
        target = directory / name / MODEL_FILE
        target.parent.mkdir(parents=True, exist_ok=True)
        trials.append(_try(name, Job(kind, subject.model, target, teach, method), subject, gate,
                           timeout_s))  # fmt: skip
        if trials[-1].verdict.passed or trials[-1].measured is None:
            break
    return trials


def _try(name: str, job: Job, subject: Subject, gate: Gate, timeout_s: float) -> Trial:
    try:
        variant = run_job(job, timeout_s=timeout_s)
        if not variant.changed:
            shutil.rmtree(job.target.parent, ignore_errors=True)
            return Trial(name, Verdict(False, (variant.note,)), variant)
        with RemoteSession(variant.path, variant.options, timeout_s=timeout_s) as session:
            close = _compare(session, subject)
            coupling = _coupling(session, subject)
            metric = score(subject.evaluate, session) if subject.evaluate else None
    except (ChildCrashed, CompressionFailed) as error:
        return Trial(name, Verdict(False, (str(error),)), failure=error)
    # On random data the largest score is often a close call, which says nothing of real rows.
    binding = close.agreement if subject.data else None
    measured = Measured(close.relative_error, binding, metric, subject.metric, coupling)
    # Until it is timed only its answers can fail.
    verdict = judge(replace(gate, min_speedup=0.0), measured)
    return Trial(name, verdict, variant, measured, close.agreement)


def _compare(session: RemoteSession, subject: Subject) -> Closeness:
    """Return how close the answers to the judging data are; those at other sizes must be sound.

    Random data may lie outside of what calibration saw, so its error says nothing; that names,
    types and shapes are the same and numbers stay numbers does.
    """
    for case in subject.sized:
        close = closeness([session.run(case.inputs)], [case.outputs])
        if not math.isfinite(close.relative_error):
            raise CompressionFailed("it answers NaN or infinity where the model answers numbers")
    got = [session.run(case.inputs) for case in subject.judged]
    return closeness(got, [case.outputs for case in subject.judged])


def _coupling(session: RemoteSession, subject: Subject) -> float:
    """Return how far a row of the largest batch is from the same row alone, the worst of some.

    Dynamic int8 finds one scale for all rows of a batch, so they are never quite independent.
    """
    largest = max(subject.sized, key=lambda case: case.rows)
    if largest.rows < 2:
        return 0.0
    together, axes = session.run(largest.inputs), largest.batch_axes
    rows = sorted({int(row) for row in np.linspace(0, largest.rows - 1, _ROWS_ALONE)})
    return max(
        closeness(
            [session.run(_row(largest.inputs, row, axes))], [_row(together, row, axes)]
        ).relative_error
        for row in rows
    )


def _row(tensors: Tensors, row: int, axes: Mapping[str, int]) -> Tensors:
    return {name: array.take([row], axes.get(name, 0)) for name, array in tensors.items()}
