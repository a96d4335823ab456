"""A GRU that reads a digit row by row, of any number of rows: `python -m examples.small.gru`."""

import sys
from collections.abc import Sequence

import torch
from torch import nn

from examples.small import round_trip
from examples.small.digits import load
from examples.small.training import fit, logits


class Gru(nn.Module):
    """Reads rows of eight pixels, and says at the end which digit it was."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(8, 48, batch_first=True)
        self.scores = nn.Linear(48, 10)

    def forward(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the score of every class. rows: FP32 [batch,height,8], any height."""
        states, _ = self.rows(rows)
        return {"logits": self.scores(states[:, -1])}


def train(quick: bool) -> round_trip.Trained:  # noqa: FBT001 (the one choice of every example)
    """Train it on the scans, whose height is 8; the served model takes any."""
    scans = load()
    rows = {"rows": torch.from_numpy(scans.train)}
    model = fit(Gru(), rows, torch.from_numpy(scans.train_labels), epochs=2 if quick else 30)
    source = logits(model, {"rows": torch.from_numpy(scans.test)}).numpy()
    return round_trip.Trained(
        model, rows["rows"][:8, :5], {"rows": scans.test}, scans.test_labels, "logits", source,
        {"dynamic_axes": {"rows": {1: "height"}}},
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example."""
    return round_trip.main("gru", "train a GRU that reads digits row by row", train, argv)


if __name__ == "__main__":
    sys.exit(main())
