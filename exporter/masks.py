"""Masks of sequences: random ones must leave something to see.

A row that is masked as a whole is no input that any caller sends, and PyTorch and ONNX Runtime
answer it differently: nothing but zeros, or the mean of what was masked. Pure numpy.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from service.tensors import Array

# By the end of an input's name: what stands at the places that are seen, and at the others.
_CONVENTIONS: Final = {"attention_mask": (1, 0), "padding_mask": (0, 1)}


def convention_of(name: str, rank: int) -> tuple[int, int] | None:
    """Return the values of seen and unseen places if this names a mask [batch, length]."""
    if rank != 2:
        return None
    return next((values for end, values in _CONVENTIONS.items() if name.endswith(end)), None)


def random_mask(
    convention: tuple[int, int], shape: Sequence[int], random: np.random.Generator
) -> Array:
    """Return rows that are padded on the right by a random number of places, none as a whole."""
    rows, length = shape
    seen = random.integers(1, max(length, 1), (rows, 1), endpoint=True)
    return np.where(np.arange(length) < seen, *convention)
