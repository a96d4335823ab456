"""The classification extension: the best of an output's elements, as text, instead of all of them.

Pure numpy; knows no message.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from service.errors import InvalidRequest, shown
from service.tensors import BF16, BOOL, BYTES, FP16, Array, Datatype, element_count

_MAX_ELEMENTS: Final = 1_000_000
_UNSUPPORTED: Final = (BYTES, BOOL, FP16, BF16)


def check_classifiable(output: str, datatype: Datatype) -> None:
    """Raise InvalidRequest if the elements of an output have no order that texts could show."""
    if datatype in _UNSUPPORTED:
        raise InvalidRequest(
            f"class result not available for output due to unsupported type '{datatype}': output "
            f"'{shown(output)}'",
        )


def classify(array: Array, count: int, labels: Sequence[str], *, batched: bool) -> Array:
    """Return the largest elements of each row as texts, the largest first.

    array: scores; all axes but the batch count as one, also if there is no batch.
    count: texts a row; fewer if a row has fewer elements. labels: of the elements, by index.
    The result is [rows, count], or [count] without a batch, of bytes `value:index[:label]`. Of
    equal elements the first wins; NaN counts as the least.
    Raises InvalidRequest if the array is too large to be looked through for one request.
    """
    if array.size > _MAX_ELEMENTS:
        raise InvalidRequest(
            f"classification output tensor too large: {array.size} elements, at most "
            f"{_MAX_ELEMENTS} are looked through",
        )
    rows = len(array) if batched else 1
    scores = array.reshape(rows, element_count(array.shape[1:]) if batched else array.size)
    count = min(count, scores.shape[1])
    texts = np.empty((rows, count), dtype=object)
    for row, values in zip(texts, scores, strict=True):
        best = _best(values, count)
        row[:] = _texts(values[best].tolist(), best.tolist(), labels)
    return texts if batched else texts[0]


def _best(values: Array, count: int) -> Array:
    """Return the indices of the largest values, in their order; no more is sorted than that."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), -np.inf, values)
    candidates = np.arange(len(values))
    if 0 < count < len(values):
        least = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > least)
        ties = np.flatnonzero(values == least)[: count - len(above)]
        candidates = np.concatenate([above, ties])
        candidates.sort()
    # Largest first, and stable: descending order is the reverse of ascending order of the reverse.
    order = np.argsort(values[candidates][::-1], kind="stable")[::-1]
    return candidates[::-1][order][:count]


def _texts(values: list[float], indices: list[int], labels: Sequence[str]) -> list[bytes]:
    known = len(labels)
    texts = []
    for value, index in zip(values, indices, strict=True):
        number = f"{value:f}" if type(value) is float else str(value)
        label = labels[index] if index < known else ""
        texts.append((f"{number}:{index}:{label}" if label else f"{number}:{index}").encode())
    return texts
