"""The classic image classifier: a multilayer perceptron, 784 -> 128 (ReLU) -> 10."""

from typing import Final

import torch
from torch import nn

PIXELS: Final = 28 * 28
HIDDEN: Final = 128
CLASSES: Final = 10


class Mlp(nn.Module):
    """Classifies an image of 28x28 pixels as one of ten digits."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(PIXELS, HIDDEN)
        self.scores = nn.Linear(HIDDEN, CLASSES)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the score of every class before softmax.

        image: FP32 [batch, 784], grey values from 0 to 1, row by row.
        """
        return {"logits": self.scores(torch.relu(self.hidden(image)))}


def build_model() -> nn.Module:
    """Return the model with untrained weights; `penstock-export` calls this."""
    return Mlp()


def example_inputs() -> dict[str, torch.Tensor]:
    """Return an input of the right shape and range; `penstock-export` calls this too."""
    random = torch.Generator().manual_seed(0)
    return {"image": torch.rand(2, PIXELS, generator=random)}
