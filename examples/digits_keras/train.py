"""Train the Keras classifier with a GradientTape: `python -m examples.digits_keras.train`.

Writes model.weights.h5 and history.json.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # before Keras: a tape is TensorFlow's
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from examples.digits.data import SEED, Digits, load
from examples.digits_keras.model import build_model

WEIGHTS_FILE: Final = "model.weights.h5"
HISTORY_FILE: Final = "history.json"
_LEARNING_RATE: Final = 0.01
_BATCH: Final = 8


def fit(digits: Digits, epochs: int) -> tuple[Any, list[float]]:
    """Train a model; return it, and the share of held-out digits it had right after each epoch."""
    keras.utils.set_random_seed(SEED)
    model = build_model()
    cross_entropy = keras.losses.SparseCategoricalCrossentropy()
    optimiser = keras.optimizers.SGD(_LEARNING_RATE)

    @tf.function
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = cross_entropy(labels, model(images, training=True)["probabilities"])
        gradients = tape.gradient(loss, model.trainable_variables)
        optimiser.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    data = tf.data.Dataset.from_tensor_slices((digits.train_images, digits.train_labels))
    data = data.shuffle(len(digits.train_labels), seed=SEED).batch(_BATCH, drop_remainder=True)
    history = []
    for epoch in range(1, epochs + 1):
        for images, labels in data:
            loss = step(images, labels)
        found = model(digits.test_images)["probabilities"].numpy().argmax(axis=1)
        history.append(float((found == digits.test_labels).mean()))
        if epoch in (1, epochs) or epoch % 10 == 0:
            print(f"epoch {epoch:3}  loss {float(loss):.4f}  held out {history[-1]:.4f}")
    return model, history


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and write weights and history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/digits_keras"), metavar="DIR")
    parser.add_argument("--epochs", type=int, default=60, metavar="N")
    arguments = parser.parse_args(argv)
    model, history = fit(load(), arguments.epochs)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model.save_weights(arguments.out / WEIGHTS_FILE)
    (arguments.out / HISTORY_FILE).write_text(json.dumps(history) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
