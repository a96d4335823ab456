"""The proof: ONNX Runtime computes what the source computes, at every batch size, row by row.

Pure numpy over a function that runs the exported model; knows neither torch nor ONNX Runtime.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from exporter.cases import Case
from exporter.columns import Column, worst_column
from exporter.errors import VerificationFailed, table
from exporter.ties import count_ties
from service.errors import dims, listed
from service.repository.manifest import Parity, Tolerance
from service.tensors import Array, Tensors

Run: TypeAlias = Callable[[Tensors], Tensors]

_TEXT: Final = "OSU"  # kinds of numpy types that hold strings
_ROWS_ALONE: Final = 8  # rows of each batch that are run alone, spread over it


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an output is from its reference.

    allowed: largest absolute difference that passes. first: index of the first element above it.
    reason: what differs if no number can say it.
    """

    max_abs: float
    max_rel: float
    allowed: float
    first: tuple[int, ...] | None = None
    reason: str = ""

    @property
    def passes(self) -> bool:
        """Tell whether the output is as close as the tolerance demands."""
        return self.first is None and not self.reason


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a model and its source agree.

    parity: of each output at each batch size, the worst if a size has several cases.
    columns: the column of each output that is furthest off on its own scale, where there are any.
    ties: how many indices differ, by output, because two scores are as good as equal.
    """

    parity: tuple[Parity, ...]
    columns: tuple[Column, ...] = ()
    ties: Mapping[str, int] = field(default_factory=dict)


def prove_parity(run: Run, cases: Sequence[Case], tolerance: Tolerance) -> Agreement:
    """Compare every output of every case with the source's.

    Raises VerificationFailed with a table of what differs.
    """
    ran = [run(case.inputs) for case in cases]
    parity: dict[tuple[int, str], Parity] = {}
    ties: dict[str, int] = {}
    rows: list[list[str]] = []
    for case, outputs in zip(cases, ran, strict=True):
        for name, want in case.outputs.items():
            found = compare(outputs[name], want, tolerance)
            if tied := count_ties(outputs[name], want, case.outputs, tolerance):
                ties[name] = ties.get(name, 0) + tied
            elif not found.passes:
                rows.append(line_of(str(case.rows or "-"), name, found))
            worst = parity.get((case.rows, name))
            if worst is None or found.max_rel >= worst.max_rel:
                parity[case.rows, name] = Parity(case.rows, name, found.max_abs, found.max_rel)
    if rows:
        raise VerificationFailed(
            "the exported model computes something else than its source:\n"
            + difference_table("batch", rows)
            + "\n  Look for randomness in forward (dropout outside of eval, torch.rand), branches "
            "on x.shape, and\n  values that were computed once in Python; or allow more with "
            "--rtol and --atol.",
        )
    _refuse_vacuous(cases)
    return Agreement(tuple(parity.values()), _prove_columns(ran, cases, tolerance), ties)


def _refuse_vacuous(cases: Sequence[Case]) -> None:
    names = {name: None for case in cases for name in case.outputs}
    vacuous = [
        name for name in names if not any(_says_something(case.outputs[name]) for case in cases)
    ]
    if vacuous:
        raise VerificationFailed(
            f"nothing is proved of output(s) {listed(sorted(vacuous))}: the source itself gave no "
            "finite value in any case. Give inputs that it can work with: --sample FILE.npz, or "
            "a range in --input",
        )


def _prove_columns(
    ran: Sequence[Tensors], cases: Sequence[Case], tolerance: Tolerance
) -> tuple[Column, ...]:
    pairs = list(zip(ran, cases, strict=True))
    found = [
        worst_column(name, [(got[name], case.outputs[name]) for got, case in pairs], tolerance)
        for name in cases[0].outputs
    ]
    columns = tuple(column for column in found if column is not None)
    hidden = [column for column in columns if not column.passes]
    if hidden:
        heads = ("output", "column", "max abs", "max rel", "allowed")
        rows = [
            [c.output, str(c.index), f"{c.max_abs:.3g}", f"{c.max_rel:.3g}", f"{c.allowed:.3g}"]
            for c in hidden
        ]
        raise VerificationFailed(
            "a column of small values is off by much of its own size, though little beside the "
            "largest column:\n" + table(heads, rows) + "\n  Return it as an output of its own, "
            "scale the columns alike, or allow more with --rtol and --atol.",
        )
    return columns


def prove_rows(run: Run, cases: Sequence[Case], tolerance: Tolerance) -> None:
    """Show that a row of a batch is the same row alone, so that requests may share a batch.

    Up to eight rows of each case are run alone. Cases without a batch are passed over.
    Raises VerificationFailed with a table of the rows that differ.
    """
    rows = [line for case in cases if case.rows > 1 for line in _coupled(run, case, tolerance)]
    if rows:
        raise VerificationFailed(
            "the rows of a batch are not independent of each other, so requests cannot share one:\n"
            + difference_table("row of batch", rows)
            + "\n  Look for a softmax, mean, norm or sort over axis 0; or say --no-batch "
            "(batch=False) for a model of a fixed shape.",
        )


def compare(got: Array, want: Array, tolerance: Tolerance) -> Difference:
    """Compare an output with its reference.

    Integers and truths must be equal. Floats may differ by the relative tolerance of the largest
    finite value of the reference, at least by the absolute one; NaN and infinity must be at the
    same places.
    """
    is_text = got.dtype.kind in _TEXT and want.dtype.kind in _TEXT
    if (got.dtype != want.dtype and not is_text) or got.shape != want.shape:
        reason = f"{got.dtype}{dims(got.shape)} for {want.dtype}{dims(want.shape)}"
        return Difference(np.inf, np.inf, 0.0, reason=reason)
    if is_text:
        wrong = np.asarray(got != want, dtype=np.bool_)
        return _difference(wrong.astype(np.float64), wrong, np.zeros(want.shape), 0.0)
    if not np.issubdtype(want.dtype, np.floating):
        gap = np.abs(got.astype(np.float64) - want.astype(np.float64))
        return _difference(gap, got != want, want.astype(np.float64), 0.0)
    reference, value = want.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(reference)
    largest = float(np.max(np.abs(reference), where=finite, initial=0.0))
    allowed = max(tolerance.absolute, tolerance.relative * largest)
    same_special = (reference == value) | (np.isnan(reference) & np.isnan(value))
    with np.errstate(invalid="ignore"):
        gap = np.where(same_special, 0.0, np.abs(value - reference))
    gap = np.where(np.isnan(gap), np.inf, gap)
    return _difference(gap, gap > allowed, np.where(finite, reference, 0.0), allowed)


def _says_something(reference: Array) -> bool:
    """Tell whether equality with it means anything: it has a value that is a number."""
    if not np.issubdtype(reference.dtype, np.floating):
        return reference.size > 0
    return bool(np.isfinite(reference).any())


def _difference(gap: Array, wrong: Array, reference: Array, allowed: float) -> Difference:
    max_abs = float(np.max(gap, initial=0.0))
    largest = float(np.max(np.abs(reference), initial=0.0))
    first = tuple(int(i) for i in np.argwhere(wrong)[0]) if wrong.any() else None
    # Over zeros a relative difference means nothing: only an absolute one can be allowed.
    max_rel = max_abs / largest if largest else 0.0
    return Difference(max_abs, max_rel, allowed, first)


def _coupled(run: Run, case: Case, tolerance: Tolerance) -> Iterator[list[str]]:
    together = run(case.inputs)
    count = min(case.rows, _ROWS_ALONE)
    for row in sorted({int(i) for i in np.linspace(0, case.rows - 1, count)}):
        alone = run(case.row(case.inputs, row))
        for name, array in case.row(together, row).items():
            found = compare(alone[name], array, tolerance)
            if not found.passes:
                yield line_of(f"{row} of {case.rows}", name, found)


def line_of(where: str, name: str, found: Difference) -> list[str]:
    """Return a line of such a table. where: in which batch, row or step."""
    if found.reason:
        return [where, name, found.reason, "-", "-", "-"]
    first = dims(found.first) if found.first is not None else "-"
    return [
        where, name, f"{found.max_abs:.3g}", f"{found.max_rel:.3g}", f"{found.allowed:.3g}", first,
    ]  # fmt: skip


def difference_table(first: str, rows: Sequence[Sequence[str]]) -> str:
    """Return lines of `line_of` as a table. first: head of their first column."""
    shown = 8  # enough to see the pattern
    text = table((first, "output", "max abs", "max rel", "allowed", "first at"), rows[:shown])
    more = len(rows) - shown
    return text + (f"\n  and {more} more" if more > 0 else "")
