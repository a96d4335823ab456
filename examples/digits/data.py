"""Real handwritten digits: scikit-learn's 1,797 scans, brought to the size of the classic task."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from examples.digits.model import PIXELS

SEED: Final = 0
_TEST_SHARE: Final = 0.25
_GREY_LEVELS: Final = 16.0  # the scans count inked pixels of a 4x4 block: 0 to 16


@dataclass(frozen=True, slots=True)
class Digits:
    """Images FP32 [n, 784] with values from 0 to 1, and their labels int64 [n]."""

    train_images: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]


def load(seed: int = SEED) -> Digits:
    """Return the digits, a quarter of each class held out for the test."""
    scans = load_digits()
    images = _resample(scans.images.astype(np.float32) / _GREY_LEVELS)
    labels = scans.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=_TEST_SHARE, stratify=labels, random_state=seed
    )
    return Digits(train_images, train_labels, test_images, test_labels)


def _resample(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return images [n, 8, 8] as rows of 28x28 pixels [n, 784], bilinear."""
    small = torch.from_numpy(images)[:, None]
    large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear")
    flat: npt.NDArray[np.float32] = large.reshape(-1, PIXELS).numpy()
    return flat
