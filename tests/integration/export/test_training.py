"""Training of the example: it converges, says when it does not, and is deterministic."""

import numpy as np
import torch

from examples.digits.data import Digits
from examples.digits.train import Settings, Training, fit


def test_training_converges_before_its_cap(trained: Training) -> None:
    """It stops because the loss stands still, after at least ten epochs, above 0.95."""
    assert trained.converged
    assert 10 <= len(trained.history) < Settings().max_epochs
    assert trained.test_accuracy >= 0.95


def test_training_that_does_not_converge_says_so(digits: Digits) -> None:
    """At the cap of epochs the loop ends, and the result does not pretend."""
    training = fit(digits, Settings(max_epochs=2))
    assert not training.converged
    assert len(training.history) == 2


def test_training_is_deterministic(digits: Digits) -> None:
    """Equal settings give equal weights, bit for bit."""
    settings = Settings(max_epochs=1)
    first, second = (fit(digits, settings).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_held_out_digits_are_stratified(digits: Digits) -> None:
    """Every class has its share of the test set, and no image is in both sets."""
    train, test = np.bincount(digits.train_labels), np.bincount(digits.test_labels)
    assert np.all(np.abs(test / (train + test) - 0.25) < 0.02)
    assert (digits.train_images.min(), digits.train_images.max()) == (0.0, 1.0)
    assert digits.test_images.shape == (450, 784)
