"""Ties: whole numbers that differ because two scores are as good as equal.

An argmax or top-k in the graph turns a difference in the last bit into another index. That is no
fault if the scores are an output too and lie within the tolerance of each other.
"""

from collections.abc import Mapping

import numpy as np

from service.repository.manifest import Tolerance
from service.tensors import Array


def count_ties(got: Array, want: Array, scores: Mapping[str, Array], tolerance: Tolerance) -> int:
    """Return how many elements differ if every one of them is a tie, else 0.

    got, want: whole numbers of one shape. scores: the floating outputs of the reference.
    """
    if not np.issubdtype(want.dtype, np.integer) or got.shape != want.shape:
        return 0
    differing = int(np.count_nonzero(got != want))
    ties = any(_are_ties(got, want, array, tolerance) for array in scores.values())
    return differing if differing and ties else 0


def _are_ties(got: Array, want: Array, scores: Array, tolerance: Tolerance) -> bool:
    """Tell whether both indices name scores within the tolerance of each other, everywhere."""
    if scores.ndim < 2 or not np.issubdtype(scores.dtype, np.floating):
        return False
    if scores.shape[:-1] == want.shape:  # one index a row
        got, want = got[..., None], want[..., None]
    elif scores.ndim != want.ndim or scores.shape[:-1] != want.shape[:-1]:
        return False
    classes = scores.shape[-1]
    if min(got.min(), want.min()) < 0 or max(got.max(), want.max()) >= classes:
        return False
    chosen = np.take_along_axis(scores, got.astype(np.int64), axis=-1)
    expected = np.take_along_axis(scores, want.astype(np.int64), axis=-1)
    finite = np.abs(scores[np.isfinite(scores)])
    allowed = max(tolerance.absolute, tolerance.relative * float(finite.max(initial=0.0)))
    gap = np.abs(chosen.astype(np.float64) - expected.astype(np.float64))
    return bool((gap <= allowed).all())
