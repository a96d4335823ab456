"""The picture of the demo: how the training went, and what the served model says of digits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from examples.digits.train import Epoch

_COLUMNS: Final = 8
_ROWS: Final = 5
_BLUE, _ORANGE, _RED, _INK, _PALE = "#2a6f97", "#e07a1f", "#c1121f", "#22313f", "#d9e2ec"


def draw(
    path: Path,
    history: Sequence[Epoch],
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    predictions: npt.NDArray[np.int64],
) -> None:
    """Write a PNG: the training curve, and a grid of held-out digits with predictions.

    Digits that the model got wrong come first, in red, with what they really are.
    """
    with mpl.rc_context({"font.size": 10, "text.color": _INK, "axes.labelcolor": _INK}):
        figure = Figure(figsize=(13, 5.6), layout="constrained")
        parts = figure.subfigures(1, 2, width_ratios=(1, 1.35), squeeze=False)
        _draw_training(parts[0, 0], history)
        _draw_digits(parts[0, 1], images, labels, predictions)
        figure.savefig(path, dpi=140, facecolor="white")


def _draw_training(figure: Any, history: Sequence[Epoch]) -> None:
    figure.suptitle("Training", fontweight="bold")
    accuracy_axes, loss_axes = figure.subplots(2, 1, sharex=True)
    epochs = [epoch.number for epoch in history]
    accuracy_axes.plot(epochs, [e.train_accuracy for e in history], color=_BLUE, label="training")
    accuracy_axes.plot(epochs, [e.test_accuracy for e in history], color=_ORANGE, label="held out")
    accuracy_axes.set_ylabel("accuracy")
    accuracy_axes.legend(loc="lower right", frameon=False)
    accuracy_axes.set_title(f"held out at the end: {history[-1].test_accuracy:.4f}", fontsize=10)
    loss_axes.plot(epochs, [e.loss for e in history], color=_BLUE)
    loss_axes.set_ylim(bottom=0)
    loss_axes.set_ylabel(r"cross-entropy $+\ \lambda R(w)$")
    loss_axes.set_xlabel("epoch")
    for axes in (accuracy_axes, loss_axes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=_PALE, linewidth=0.6)


def _draw_digits(
    figure: Any,
    images: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    predictions: npt.NDArray[np.int64],
) -> None:
    wrong = np.flatnonzero(labels != predictions)
    right = np.flatnonzero(labels == predictions)
    shown = [*wrong[: _COLUMNS * 2], *right][: _COLUMNS * _ROWS]
    figure.suptitle(
        f"What the server answered: {len(right)} of {len(labels)} right, {len(wrong)} wrong (red)",
        fontweight="bold",
    )
    grid = figure.subplots(_ROWS, _COLUMNS)
    for axes, index in zip(grid.flat, shown, strict=False):
        is_right = labels[index] == predictions[index]
        axes.imshow(images[index].reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
        text = str(predictions[index]) if is_right else f"{predictions[index]}, is {labels[index]}"
        axes.set_title(text, fontsize=11, color=_BLUE if is_right else _RED, pad=3)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(_PALE)
