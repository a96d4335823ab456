"""Columns of an output, each compared on its own scale, so that a large one hides no small one.

A column is one class: an extent of the class axis, over all rows of all cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.repository.manifest import Tolerance
from service.tensors import Array

# A column of small values may come from cancelling large ones: it gets this much more room.
_SLACK: Final = 100.0
_MOST: Final = 0.5  # of its largest value; beyond, a column says nothing any more
_MIN_VALUES: Final = 16  # with fewer, a column's largest value is an accident
_MAX_COLUMNS: Final = 4096


@dataclass(frozen=True, slots=True)
class Column:
    """The column of an output that is furthest off, on its own scale.

    max_rel: max_abs over the largest absolute value of this column in the reference.
    """

    output: str
    index: int
    max_abs: float
    max_rel: float
    allowed: float

    @property
    def passes(self) -> bool:
        """Tell whether the column is as close as the tolerance demands."""
        return self.max_abs <= self.allowed


def worst_column(
    output: str, pairs: Sequence[tuple[Array, Array]], tolerance: Tolerance
) -> Column | None:
    """Return the column that is furthest off; None if there are no columns to speak of.

    pairs: (what ran, reference) of each case, of equal shapes, finite values at the same places.
    """
    columns = [_by_column(got, want) for got, want in pairs]
    if not columns or len({len(gap) for gap, _, _ in columns}) != 1 or len(columns[0][0]) == 0:
        return None
    if sum(values for _, _, values in columns) < _MIN_VALUES:
        return None
    gap = np.max([gap for gap, _, _ in columns], axis=0)
    largest = np.max([largest for _, largest, _ in columns], axis=0)
    overall = tolerance.relative * float(largest.max())
    # A column of zeros has no scale of its own.
    own = np.where(largest > 0, min(_MOST, _SLACK * tolerance.relative) * largest, overall)
    allowed = np.maximum(tolerance.absolute, own)
    index = int(np.argmax(gap / np.maximum(allowed, np.finfo(np.float64).tiny)))
    relative = gap[index] / largest[index] if largest[index] else 0.0
    return Column(output, index, float(gap[index]), float(relative), float(allowed[index]))


def _by_column(got: Array, want: Array) -> tuple[Array, Array, int]:
    """Return the largest difference and value of each column, and the values in a column."""
    empty = np.zeros(0)
    if not np.issubdtype(want.dtype, np.floating) or want.ndim < 2 or got.shape != want.shape:
        return empty, empty, 0
    axis = want.ndim - 1 if want.ndim < 4 else 1  # images are [batch, classes, height, width]
    if not 2 <= want.shape[axis] <= _MAX_COLUMNS:
        return empty, empty, 0
    columns = want.shape[axis]
    reference = np.moveaxis(want, axis, -1).reshape(-1, columns).astype(np.float64)
    value = np.moveaxis(got, axis, -1).reshape(-1, columns).astype(np.float64)
    finite = np.isfinite(reference) & np.isfinite(value)
    difference = np.abs(np.where(finite, value, 0.0) - np.where(finite, reference, 0.0))
    size = np.abs(np.where(finite, reference, 0.0))
    return difference.max(axis=0, initial=0.0), size.max(axis=0, initial=0.0), len(reference)
