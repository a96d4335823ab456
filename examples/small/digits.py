"""Scans of handwritten digits, 8x8, for the small examples."""

from dataclasses import dataclass

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from service.tensors import Array


@dataclass(frozen=True, slots=True)
class Scans:
    """Images FP32 [n,8,8] with values from 0 to 1, and what they are, int64 [n]."""

    train: Array
    train_labels: Array
    test: Array
    test_labels: Array


def load() -> Scans:
    """Return the scans, a quarter of each class held out."""
    scans = load_digits()
    images, labels = (scans.images / 16).astype(np.float32), scans.target.astype(np.int64)
    train, test, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=0
    )
    return Scans(train, train_labels, test, test_labels)
