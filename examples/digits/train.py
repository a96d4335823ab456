"""Train the classifier until it converges: `python -m examples.digits.train --out out/digits`.

The six steps of training stand in `fit`, numbered. Writes weights.safetensors and history.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import nn

from examples.digits.data import SEED, Digits, load
from examples.digits.model import build_model

WEIGHTS_FILE: Final = "weights.safetensors"
HISTORY_FILE: Final = "history.json"
_THREADS: Final = 1  # matrices this small run no faster on several


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train.

    weight_decay: lambda of the term lambda R(w) with R(w) = ||w||^2 / 2, whose gradient SGD adds.
    Training has converged when the loss of an epoch is less than `min_gain` (a share) below that
    of `patience` epochs before; it runs at least `min_epochs`, and fails at `max_epochs`.
    """

    learning_rate: float = 0.01
    weight_decay: float = 1e-3
    batch_size: int = 8
    min_epochs: int = 10
    max_epochs: int = 200
    patience: int = 5
    min_gain: float = 0.05
    seed: int = SEED


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training set gave. loss: mean of lambda R(w) + cross-entropy."""

    number: int
    loss: float
    train_accuracy: float
    test_accuracy: float


@dataclass(frozen=True, slots=True)
class Training:
    """A trained model and its history. converged: it did not stop at the cap."""

    model: nn.Module
    history: tuple[Epoch, ...]
    converged: bool

    @property
    def test_accuracy(self) -> float:
        """Return the share of the held-out images that the model classifies rightly."""
        return self.history[-1].test_accuracy


def fit(digits: Digits, settings: Settings) -> Training:
    """Train a model and print the progress. Deterministic for the same settings."""
    torch.set_num_threads(_THREADS)
    torch.manual_seed(settings.seed)
    shuffle = torch.Generator().manual_seed(settings.seed)
    images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)

    # Step 1, initialise: random weights.
    model = build_model()
    cross_entropy = nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
    history: list[Epoch] = []
    while not (converged := _has_converged(history, settings)):
        if len(history) == settings.max_epochs:
            break
        total = 0.0
        for batch in torch.randperm(len(labels), generator=shuffle).split(settings.batch_size):
            # Step 2, features: a batch of images, and the scores that the model draws from them.
            logits = model(images[batch])["logits"]
            # Step 3, targets: what they are.
            targets = labels[batch]
            # Step 4, difference: cross-entropy, and lambda R(w) that keeps the weights small.
            loss = cross_entropy(logits, targets) + settings.weight_decay * _penalty(model)
            # Step 5, update: a step against the gradient.
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(batch)
        # Step 6, repeat until it converges.
        history.append(_measure(model, digits, len(history) + 1, total / len(labels)))
        _print_epoch(history[-1])
    return Training(model, tuple(history), converged)


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of images that the model classifies rightly."""
    with torch.no_grad():
        predicted = model(images)["logits"].argmax(dim=1)
    return float((predicted == labels).double().mean())


def save(training: Training, directory: Path) -> tuple[Path, Path]:
    """Write weights and history and return their paths. The weights hold tensors only."""
    directory.mkdir(parents=True, exist_ok=True)
    weights, history = directory / WEIGHTS_FILE, directory / HISTORY_FILE
    save_file(training.model.state_dict(), weights)
    weights.chmod(0o644)  # safetensors makes it private
    report = {
        "converged": training.converged,
        "test_accuracy": training.test_accuracy,
        "epochs": [asdict(epoch) for epoch in training.history],
    }
    history.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return weights, history


def main(argv: Sequence[str] | None = None) -> int:
    """Train, save, and say how well it went."""
    parser = argparse.ArgumentParser(prog="python -m examples.digits.train", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/digits"), metavar="DIR")
    arguments = parser.parse_args(argv)
    digits = load()
    print(f"{len(digits.train_labels)} images to train with, {len(digits.test_labels)} held out")
    training = fit(digits, Settings())
    weights, history = save(training, arguments.out)
    if not training.converged:
        print(f"not converged after {len(training.history)} epochs", file=sys.stderr)
        return 1
    print(f"converged after {len(training.history)} epochs")
    print(f"test accuracy {training.test_accuracy:.4f}")
    print(f"wrote {weights} and {history}")
    return 0


def _penalty(model: nn.Module) -> torch.Tensor:
    """Return R(w), half the sum of the squared weights; biases are not held back."""
    squares = [w.square().sum() for name, w in model.named_parameters() if name.endswith("weight")]
    return torch.stack(squares).sum() / 2


def _has_converged(history: Sequence[Epoch], settings: Settings) -> bool:
    if len(history) < max(settings.min_epochs, settings.patience + 1):
        return False
    before, now = history[-1 - settings.patience].loss, history[-1].loss
    return now > before * (1 - settings.min_gain)


def _measure(model: nn.Module, digits: Digits, number: int, loss: float) -> Epoch:
    return Epoch(
        number,
        loss,
        accuracy(
            model, torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)
        ),
        accuracy(model, torch.from_numpy(digits.test_images), torch.from_numpy(digits.test_labels)),
    )


def _print_epoch(epoch: Epoch) -> None:
    print(
        f"epoch {epoch.number:3d}  loss {epoch.loss:.4f}  train {epoch.train_accuracy:.4f}  "
        f"test {epoch.test_accuracy:.4f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
