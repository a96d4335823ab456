"""A small convolutional network on digits: `python -m examples.small.cnn`."""

import sys
from collections.abc import Sequence

import torch
from torch import nn

from examples.small import round_trip
from examples.small.digits import load
from examples.small.training import fit, logits


class Cnn(nn.Module):
    """Two convolutions with BatchNorm, which the export folds into them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.scores = nn.Linear(32 * 4, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the score of every class. image: FP32 [batch,1,8,8]."""
        return {"logits": self.scores(self.features(image).flatten(1))}


def train(quick: bool) -> round_trip.Trained:  # noqa: FBT001 (the one choice of every example)
    """Train it on the scans."""
    scans = load()
    images = {"image": torch.from_numpy(scans.train)[:, None]}
    model = fit(Cnn(), images, torch.from_numpy(scans.train_labels), epochs=2 if quick else 15)
    asked = {"image": scans.test[:, None]}
    source = logits(model, {"image": torch.from_numpy(asked["image"])}).numpy()
    return round_trip.Trained(
        model, images["image"][:8], asked, scans.test_labels, "logits", source
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example."""
    return round_trip.main("cnn", "train a small convolutional network on digits", train, argv)


if __name__ == "__main__":
    sys.exit(main())
