"""How close the outputs of a variant are to those of the model it was made from. Numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from exporter.errors import CompressionFailed
from service.errors import dims, listed
from service.tensors import Array, Tensors

# Scores nearer to each other than this share of their row's range are a tie: either class is right.
_TIE: Final = 0.01


@dataclass(frozen=True, slots=True)
class Closeness:
    """The distance of outputs from their reference, over several runs.

    relative_error: rms of the difference over rms of the reference, of the worst output; infinity
    where one is NaN or infinite and the other is not. agreement: share of rows with the same
    largest score (ties aside), or of equal integers, of the worst output; None if no output has
    classes.
    """

    relative_error: float
    agreement: float | None


def closeness(got: Sequence[Tensors], want: Sequence[Tensors]) -> Closeness:
    """Compare runs of a variant with the same runs of its original.

    Raises CompressionFailed if names, types or shapes differ: then it is another model.
    """
    for one, other in zip(got, want, strict=True):
        _check_same_form(one, other)
    errors, shares = [0.0], []
    for name in want[0]:
        pairs = [(one[name], other[name]) for one, other in zip(got, want, strict=True)]
        if np.issubdtype(pairs[0][1].dtype, np.floating):
            errors.append(_relative_error(pairs))
        share = _agreement(pairs)
        if share is not None:
            shares.append(share)
    return Closeness(max(errors), min(shares, default=None))


def _check_same_form(got: Tensors, want: Tensors) -> None:
    if set(got) != set(want):
        raise CompressionFailed(
            f"outputs became {listed(sorted(got))}, were {listed(sorted(want))}"
        )
    for name, reference in want.items():
        array = got[name]
        if (array.dtype, array.shape) != (reference.dtype, reference.shape):
            raise CompressionFailed(
                f"output '{name}' became {array.dtype}{dims(array.shape)}, was "
                f"{reference.dtype}{dims(reference.shape)}",
            )


def _relative_error(pairs: Sequence[tuple[Array, Array]]) -> float:
    difference = reference = 0.0
    for got, want in pairs:
        value, base = got.astype(np.float64), want.astype(np.float64)
        same = (value == base) | (np.isnan(value) & np.isnan(base))
        with np.errstate(invalid="ignore"):
            gap = np.where(same, 0.0, value - base)
        if not np.isfinite(gap).all():
            return float("inf")
        difference += float(np.square(gap).sum())
        reference += float(np.square(base, where=np.isfinite(base), out=np.zeros_like(base)).sum())
    if difference == 0.0:
        return 0.0
    return float(np.sqrt(difference / reference)) if reference else float("inf")


def _agreement(pairs: Sequence[tuple[Array, Array]]) -> float | None:
    """Return the share of rows that agree, None if the output has no classes and no integers."""
    if not np.issubdtype(pairs[0][1].dtype, np.floating):
        equal = np.concatenate([np.ravel(got == want) for got, want in pairs])
        return float(equal.mean()) if equal.size else None
    if any(want.ndim != 2 or want.shape[1] < 2 for _, want in pairs):
        return None
    agreeing = [_same_class(got, want) for got, want in pairs]
    return float(np.concatenate(agreeing).mean())


def _same_class(got: Array, want: Array) -> Array:
    """Tell for each row of scores whether both have the same largest one, ties aside."""
    if not np.isfinite(got).all():
        return np.zeros(len(want), np.bool_)
    chosen = np.take_along_axis(want, got.argmax(axis=1)[:, None], axis=1)[:, 0]
    spread = want.max(axis=1) - want.min(axis=1)
    same: Array = want.max(axis=1) - chosen <= _TIE * spread
    return same
