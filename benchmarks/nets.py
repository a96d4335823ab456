"""Networks for the figures of the exporter, in plain PyTorch with random weights: no downloads.

ResNet-18 as published (11.7 million weights), an encoder in the manner of BERT (6 layers of 384),
and a wide multilayer perceptron. Their speed, size and numerical error are measured, not accuracy.
"""

from typing import Final

import torch
from torch import nn

TOKENS: Final = 1000


class Residual(nn.Module):
    """Two 3x3 convolutions with a way around them."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.around = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [batch, channels, height / stride, width / stride]."""
        return torch.relu(self.main(x) + self.around(x))


class ResNet18(nn.Module):
    """ResNet-18: image FP32 [batch, 3, height, width] to logits [batch, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        blocks = [
            block
            for channels_in, channels, stride in stages
            for block in (
                Residual(channels_in, channels, stride),
                Residual(channels, channels, 1),
            )
        ]
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
            *blocks,
        )
        self.scores = nn.Linear(512, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the score of every class."""
        logits: torch.Tensor = self.scores(self.features(image).mean(dim=(2, 3)))
        return logits


class Encoder(nn.Module):
    """An encoder like BERT: tokens int64 [batch, length] to logits [batch, 2]."""

    def __init__(self, layers: int = 6, width: int = 384, heads: int = 12) -> None:
        super().__init__()
        self.tokens = nn.Embedding(TOKENS, width)
        self.places = nn.Parameter(torch.randn(512, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.scores = nn.Linear(width, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the score of every class, drawn from the first token."""
        embedded = self.tokens(tokens) + self.places[: tokens.shape[1]]
        logits: torch.Tensor = self.scores(self.layers(embedded)[:, 0])
        return logits


def wide_mlp() -> nn.Module:
    """Return 784 -> 2048 -> 2048 -> 10."""
    return nn.Sequential(
        nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10)
    )


class DigitsCnn(nn.Module):
    """Two convolutions for the digits: image FP32 [batch, 784] to logits FP32 [batch, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.scores = nn.Linear(32 * 7 * 7, 10)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the score of every class."""
        features = self.features(image.reshape(-1, 1, 28, 28))
        return {"logits": self.scores(torch.flatten(features, 1))}
