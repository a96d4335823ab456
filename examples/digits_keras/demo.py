"""One network in two frameworks on one server: `python -m examples.digits_keras.demo`.

Digits are learned by PyTorch and by TensorFlow, both models are exported and served, the held-out
digits go to both over gRPC, and one picture compares the answers.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from examples.digits.data import load
from examples.digits.train import Settings, fit, save
from examples.serving import ExampleFailed, heading, run, serving
from service.client import Client
from service.tensors import Array

_MODELS: Final = {"digits_torch": "logits", "digits_keras": "probabilities"}  # with their outputs
_ROWS: Final = 64  # of a request
_SHOWN: Final = 20  # digits in the picture: those on which the two differ come first
_BLUE, _ORANGE, _RED, _PALE = "#2a6f97", "#e07a1f", "#c1121f", "#d9e2ec"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return 0 if both models answer as they were trained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/digits_keras"), metavar="DIR")
    parser.add_argument("--quick", action="store_true", help="train less")
    arguments = parser.parse_args(argv)
    try:
        _demo(arguments.out, epochs=3 if arguments.quick else 60, is_quick=arguments.quick)
    except ExampleFailed as error:
        print(f"\ndemo failed: {error}", file=sys.stderr)
        return 1
    return 0


def _demo(out: Path, *, epochs: int, is_quick: bool) -> None:
    digits = load()
    heading(1, "train with PyTorch")
    settings = Settings(min_epochs=1, max_epochs=epochs) if is_quick else Settings()
    training = fit(digits, settings)
    weights, _ = save(training, out / "torch")

    heading(2, "train the same network with TensorFlow")
    run([sys.executable, "-m", "examples.digits_keras.train", "--out", str(out / "keras"),
         "--epochs", str(epochs)])  # fmt: skip
    history = json.loads((out / "keras" / "history.json").read_text())

    heading(3, "export both, and prove that ONNX Runtime computes the same")
    models = out / "models"
    for source, file, name in (
        ("examples.digits.model:build_model", weights, "digits_torch"),
        ("examples.digits_keras.model:build_model", out / "keras" / "model.weights.h5",
         "digits_keras"),
    ):  # fmt: skip
        run([sys.executable, "-m", "exporter", source, "--weights", str(file), "--name", name,
             "--repository", str(models)])  # fmt: skip

    heading(4, "serve both, and send the held-out digits to each over gRPC")
    with serving(models) as address, Client(address) as client:
        found = {
            name: _ask(client, name, output, digits.test_images)
            for name, output in _MODELS.items()
        }  # fmt: skip
    curves = {
        "digits_torch": [epoch.test_accuracy for epoch in training.history],
        "digits_keras": history,
    }
    for name, classes in found.items():
        share = float((classes == digits.test_labels).mean())
        print(f"{name:<14}{share:.4f} right over gRPC, {curves[name][-1]:.4f} in its framework")
        if abs(share - curves[name][-1]) > 1 / len(classes):
            raise ExampleFailed(f"{name} answers something else than it learned")
    same = float((found["digits_torch"] == found["digits_keras"]).mean())
    print(f"the two agree on {same:.4f} of the digits")

    heading(5, "draw")
    picture = out / "side_by_side.png"
    draw(picture, curves, digits.test_images, digits.test_labels, found)
    print(f"both models in one picture: {picture.resolve()}")


def draw(
    path: Path,
    curves: dict[str, list[float]],
    images: Array,
    labels: Array,
    found: dict[str, Array],
) -> None:
    """Write a PNG: how both learned, and what each says of digits on which they differ."""
    first, second = found.values()
    order = np.argsort(first == second, kind="stable")[:_SHOWN]
    with mpl.rc_context({"font.size": 10}):
        figure = Figure(figsize=(13, 5), layout="constrained")
        parts = figure.subfigures(1, 2, width_ratios=(1, 1.4), squeeze=False)
        left, right = parts[0, 0], parts[0, 1]
        axes = left.subplots()
        for (name, curve), colour in zip(curves.items(), (_BLUE, _ORANGE), strict=True):
            axes.plot(range(1, len(curve) + 1), curve, color=colour, label=name)
        axes.set(xlabel="epoch", ylabel="held-out accuracy", title="one network, learned twice")
        axes.legend(loc="lower right", frameon=False)
        axes.grid(color=_PALE, linewidth=0.6)
        right.suptitle(
            f"What the server answers: PyTorch | TensorFlow; they differ on "
            f"{int((first != second).sum())} of {len(labels)} (first)",
        )
        for place, axes in zip(order, right.subplots(4, _SHOWN // 4).flat, strict=True):
            axes.imshow(images[place].reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
            is_right = first[place] == second[place] == labels[place]
            axes.set_title(
                f"{first[place]} | {second[place]}", color=_BLUE if is_right else _RED, fontsize=11
            )
            axes.set(xticks=[], yticks=[])
        figure.savefig(path, dpi=140, facecolor="white")


def _ask(client: Client, name: str, output: str, images: Array) -> Array:
    """Return the class that a served model gives each image."""
    answers = [
        client.infer(name, {"image": images[at : at + _ROWS]})[output]
        for at in range(0, len(images), _ROWS)
    ]
    classes: Array = np.concatenate(answers).argmax(axis=1)
    return classes


if __name__ == "__main__":
    sys.exit(main())
