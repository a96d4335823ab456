"""The model whose variants are tried: what it answers, and the user's metric of it."""

import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np

from exporter.errors import ExportError, UsageError
from exporter.variants.calibration import Calibration, Split, split
from exporter.variants.graph import facts_of
from exporter.variants.kinds import GraphFacts
from exporter.variants.make import input_specs, is_batched
from exporter.variants.remote import RemoteSession
from service.errors import listed
from service.tensors import Array, Tensors

Predict: TypeAlias = Callable[[Tensors | Array], Tensors]
Evaluate: TypeAlias = Callable[[Predict], float]


class ProofCase(Protocol):
    """What is needed of a case of the proof. rows: extent of the batch, 0 without one.

    batch_axes: of the tensors whose batch is not on axis 0.
    """

    @property
    def rows(self) -> int: ...  # noqa: D102 (see the class)

    @property
    def inputs(self) -> Tensors: ...  # noqa: D102 (see the class)

    @property
    def batch_axes(self) -> Mapping[str, int]: ...  # noqa: D102 (see the class)


@dataclass(frozen=True, slots=True)
class Answered:
    """Inputs, and what the model answers to them. rows: extent of the batch, 0 if unknown.

    batch_axes: of the tensors whose batch is not on axis 0.
    """

    inputs: Tensors
    outputs: Tensors
    rows: int = 0
    batch_axes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """A proved model and what its variants are held against.

    data: calibration data, None without. judged: what agreement is measured on, real data where
    there is some. sized: every size of the proof. timed: inputs of batch 1 and of the largest.
    evaluate, metric: the user's function and what it gives for the model itself.
    """

    model: Path
    facts: GraphFacts
    data: Split | None
    judged: tuple[Answered, ...]
    sized: tuple[Answered, ...]
    timed: tuple[Tensors, ...]
    evaluate: Evaluate | None = None
    metric: float | None = None


def subject_of(
    model: Path,
    cases: Sequence[ProofCase],
    calibration: Calibration | None,
    evaluate: Evaluate | None,
    timeout_s: float,
) -> Subject:
    """Run the model on everything that its variants will be judged by.

    Raises UsageError for calibration data that does not fit, or an evaluation that fails.
    """
    inputs = input_specs(model)
    data = None
    if calibration is not None:
        data = split(calibration, inputs, batched=is_batched(inputs))
    with RemoteSession(model, timeout_s=timeout_s) as session:
        sized = tuple(
            Answered(case.inputs, session.run(case.inputs), case.rows, case.batch_axes)
            for case in cases
        )
        judged = sized
        if data is not None:
            judged = tuple(Answered(feed, session.run(feed)) for feed in data.judge)
        metric = score(evaluate, session) if evaluate else None
    return Subject(model, facts_of(model), data, judged, sized, _timed(cases), evaluate, metric)


def score(evaluate: Evaluate, session: RemoteSession) -> float:
    """Return the user's metric of a loaded model. Raises UsageError if it fails or is no number."""
    try:
        value = float(evaluate(_predict(session)))
    except ExportError:
        raise  # the session failed, not the user's function
    except Exception as error:  # whatever the user's function raises
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"the evaluation function raised {type(error).__name__}: {error} "
            f"({Path(frame.filename).name}:{frame.lineno}: {frame.line}). It gets a function from "
            "inputs to outputs (arrays by name) and returns one number, higher is better",
        ) from error
    if not math.isfinite(value):
        raise UsageError(f"the evaluation function returned {value}; expected a finite number")
    return value


def _predict(session: RemoteSession) -> Predict:
    """Return the function that the user's evaluation gets: arrays by name, or one array."""

    def predict(inputs: Tensors | Array) -> Tensors:
        if isinstance(inputs, Mapping):
            return session.run({name: np.asarray(array) for name, array in inputs.items()})
        if len(session.inputs) != 1:
            raise TypeError(f"the model has inputs {listed(session.inputs)}: give a dict")
        return session.run({session.inputs[0]: np.asarray(inputs)})

    return predict


def _timed(cases: Sequence[ProofCase]) -> tuple[Tensors, ...]:
    """Return the inputs of batch 1 and of the largest; of the first case without a batch."""
    first = {case.rows: case.inputs for case in reversed(cases)}
    return tuple(first[rows] for rows in dict.fromkeys((min(first), max(first))))
