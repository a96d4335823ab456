"""The classifier of examples/digits in Keras: the same network, 784 -> 128 (ReLU) -> 10."""

from typing import Any, Final

import keras
import numpy as np

PIXELS: Final = 28 * 28
HIDDEN: Final = 128
CLASSES: Final = 10


class Mlp(keras.Model):
    """Classifies an image of 28x28 pixels as one of ten digits; gives probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(HIDDEN, activation="relu")
        self.scores = keras.layers.Dense(CLASSES, activation="softmax")

    def call(self, image: Any) -> dict[str, Any]:
        """Return the probability of every class. image: FP32 [batch, 784], values 0 to 1."""
        return {"probabilities": self.scores(self.hidden(image))}


def build_model() -> keras.Model:
    """Return the model with untrained weights; `penstock-export` calls this."""
    model = Mlp()
    model(np.zeros((1, PIXELS), np.float32))  # a subclass knows its weights after a first call
    return model


def example_inputs() -> dict[str, Any]:
    """Return an input of the right shape and range; `penstock-export` calls this too."""
    return {"image": np.random.default_rng(0).random((2, PIXELS), np.float32)}
