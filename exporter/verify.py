"""The proof of a file: of the signature that was asked for, and equal to its source."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from exporter.cases import Case
from exporter.check import check_file, check_graph, check_signature, served_signature
from exporter.flow import Converted, Proven
from exporter.inputs import BATCH, Inputs
from exporter.progress import Progress, silent
from exporter.proof import prove_parity, prove_rows
from exporter.session import Session
from exporter.states import prove_steps
from service.repository.manifest import Axis, Tolerance

HALF: Final = Tolerance(relative=5e-3, absolute=1e-4)  # 8 times what faithful models in FP16 show


def prove_file(
    converted: Converted,
    tolerance: Tolerance | None,
    limits: Mapping[str, tuple[int, int]],
    *,
    progress: Progress = silent,
) -> Proven:
    """Do all that proves a file, in the process that calls it: run it as a child.

    limits: smallest and largest size of a free axis, by its name.
    Raises ConversionFailed and VerificationFailed.
    """
    check_file(converted.model)
    check_graph(converted)
    batches = sorted({case.rows for case in converted.cases})
    where = "batch " + ", ".join(map(str, batches)) if batches[-1] else "its fixed shape"
    progress(f"proving that ONNX Runtime computes the same at {where}")
    return prove(converted, converted.model, tolerance, limits)


def prove(
    converted: Converted,
    model: Path,
    tolerance: Tolerance | None,
    limits: Mapping[str, tuple[int, int]] | None = None,
) -> Proven:
    """Compare a file with what the source computed, at every size and row by row.

    tolerance: None: the default of the type of the outputs.
    Raises ConversionFailed if the file has another signature, VerificationFailed with a table.
    """
    session = Session(model)
    cases = converted.cases
    check_signature(session, converted.inputs, converted.outputs, cases)
    allowed = tolerance or default_tolerance(cases)
    agreement = prove_parity(session.run, cases, allowed)
    prove_rows(session.run, cases, allowed)
    if converted.stepping is not None:
        prove_steps(session.run, converted.stepping, allowed)
    axes = proved_axes(converted.inputs, cases, limits or {})
    graph = served_signature(model, session.inputs, session.outputs)
    return Proven(model, session.inputs, session.outputs, graph, axes, allowed, agreement)


def default_tolerance(cases: Sequence[Case]) -> Tolerance:
    """Return what may differ by default: more where an output is FP16."""
    types = {array.dtype for case in cases for array in case.outputs.values()}
    return HALF if np.dtype(np.float16) in types else Tolerance()


def proved_axes(
    inputs: Inputs, cases: Sequence[Case], limits: Mapping[str, tuple[int, int]]
) -> tuple[Axis, ...]:
    """Return every free axis with the sizes at which the file was compared with its source."""
    names = {name: None for item in inputs for name in item.axes.values()}  # in order, once each
    return tuple(_axis(name, inputs, cases, limits.get(name)) for name in names)


def _axis(name: str, inputs: Inputs, cases: Sequence[Case], limits: tuple[int, int] | None) -> Axis:
    tensors = {
        item.name: axis for item in inputs for axis, free in item.axes.items() if free == name
    }
    sizes = sorted(
        {case.inputs[tensor].shape[axis] for case in cases for tensor, axis in tensors.items()}
    )
    # The server never runs a larger batch; nothing bounds another axis, unless the user does.
    low, high = (1, sizes[-1]) if name == BATCH else limits or (1, 0)
    return Axis(name, tensors, low, high, tuple(sizes))
