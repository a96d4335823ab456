"""Calibration data: real inputs from which static quantisation learns the ranges of activations.

Pure numpy; knows no runtime.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from exporter.errors import UsageError
from service.errors import dims, listed
from service.tensors import Array, Tensors

# Ranges learnt from one batch size alone are wrong for others where rows are padded or normalised
# together; three sizes also show that the graph takes them.
_BATCHES: Final = (1, 8, 3)
_MIN_ROWS: Final = 16  # fewer say too little of the extremes
_HELD_OUT: Final = 4  # every fourth row judges, the others teach

Calibration: TypeAlias = Tensors | Sequence[Tensors]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of the graph. shape: free extents are -1."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Split:
    """Calibration data in two parts: one that teaches the ranges, one that judges the result."""

    teach: tuple[Tensors, ...]
    judge: tuple[Tensors, ...]


def split(calibration: Calibration, inputs: Sequence[InputSpec], *, batched: bool) -> Split:
    """Check calibration data against the inputs of a graph and cut it into batches.

    calibration: arrays by input, rows along axis 0; or several such sets, where an axis besides
    the batch has several extents. batched: axis 0 is free, so rows may be regrouped. Of every
    four rows (or sets, if they may not be regrouped) one judges; with fewer than four all do both.
    Raises UsageError that names the input, what was expected and what came.
    """
    sets = [calibration] if isinstance(calibration, Mapping) else list(calibration)
    if not sets:
        raise UsageError("the calibration data is empty; give some of the data of the training")
    typed = [_checked(arrays, inputs, batched=batched) for arrays in sets]
    if not batched:
        return _split_sets(typed)
    rows = sum(_rows(arrays) for arrays in typed)
    if rows < _MIN_ROWS:
        raise UsageError(
            f"the calibration data has {rows} row(s); at least {_MIN_ROWS} are needed, and some "
            "hundred of the training data are better",
        )
    teach: list[Tensors] = []
    judge: list[Tensors] = []
    for arrays in typed:
        held = np.arange(_rows(arrays)) % _HELD_OUT == _HELD_OUT - 1
        teach += _batches(_take(arrays, ~held))
        if held.any():
            judge.append(_take(arrays, held))
    return Split(tuple(teach), tuple(judge or teach))


def single_rows(batches: Sequence[Tensors], limit: int) -> list[Tensors]:
    """Return rows of batches one by one, those of the most frequent shape, at most `limit`.

    A histogram of activations needs runs of one shape, and keeps all of them in memory.
    """
    rows = [
        _take(batch, slice(index, index + 1)) for batch in batches for index in range(_rows(batch))
    ]
    shapes = [tuple(array.shape for array in row.values()) for row in rows]
    usual = max(set(shapes), key=shapes.count)
    alike = [row for row, shape in zip(rows, shapes, strict=True) if shape == usual]
    step = max(1, len(alike) // limit)
    return alike[::step][:limit]


def _split_sets(sets: Sequence[Tensors]) -> Split:
    if len(sets) < _HELD_OUT:
        return Split(tuple(sets), tuple(sets))
    judge = sets[_HELD_OUT - 1 :: _HELD_OUT]
    teach = [one for index, one in enumerate(sets) if index % _HELD_OUT != _HELD_OUT - 1]
    return Split(tuple(teach), tuple(judge))


def _checked(arrays: Tensors, inputs: Sequence[InputSpec], *, batched: bool) -> Tensors:
    """Return the arrays in the types of the inputs; raise UsageError where they do not fit."""
    names = [spec.name for spec in inputs]
    missing, unknown = sorted(set(names) - set(arrays)), sorted(set(arrays) - set(names))
    if missing or unknown:
        raise UsageError(
            f"the calibration data has arrays {listed(sorted(arrays))}, but the inputs are "
            f"{listed(names)}: give one array for each, by its name",
        )
    checked = {spec.name: _array(spec, np.asarray(arrays[spec.name])) for spec in inputs}
    rows = {name: array.shape[0] for name, array in checked.items() if array.ndim}
    if batched and len(set(rows.values())) != 1:
        raise UsageError(
            "the calibration data has "
            + ", ".join(f"{count} rows of '{name}'" for name, count in rows.items())
            + ": every input needs the same number",
        )
    return checked


def _array(spec: InputSpec, array: Array) -> Array:
    fits = array.ndim == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, array.shape, strict=True)
    )
    if not fits or 0 in array.shape:
        hint = ""
        if array.ndim == len(spec.shape) - 1:
            hint = "; it seems to lack the batch axis: array[None]"
        raise UsageError(
            f"calibration data for '{spec.name}' has shape {dims(array.shape)}, expected "
            f"{dims(spec.shape)} (-1: any extent from 1){hint}",
        )
    if array.dtype != spec.dtype:
        same_kind = np.can_cast(array.dtype, spec.dtype, "same_kind")
        if not same_kind:
            raise UsageError(
                f"calibration data for '{spec.name}' is {array.dtype}, expected {spec.dtype}: "
                "give the values that the model will see, scaled as in training",
            )
        array = array.astype(spec.dtype)
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        raise UsageError(
            f"calibration data for '{spec.name}' has NaN or infinity in it; ranges cannot be "
            "learnt from that",
        )
    return array


def _rows(arrays: Tensors) -> int:
    return int(next(iter(arrays.values())).shape[0])


def _take(arrays: Tensors, rows: Any) -> Tensors:
    return {name: np.ascontiguousarray(array[rows]) for name, array in arrays.items()}


def _batches(arrays: Tensors) -> Iterator[Tensors]:
    """Yield every row once, in batches of several sizes."""
    start, turn, count = 0, 0, _rows(arrays)
    while start < count:
        size = min(_BATCHES[turn % len(_BATCHES)], count - start)
        yield _take(arrays, slice(start, start + size))
        start, turn = start + size, turn + 1
