"""Models that convert: every shape of network that people train, each as small as it can be."""

# ruff: noqa: D102 (forward does what its class says)
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)


class Dense(nn.Sequential):
    """The perceptron: 784-128-10."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


class Convolutional(nn.Sequential):
    """Convolutions with BatchNorm, whose running statistics are not the initial ones."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(36, 10),
        )  # fmt: skip
        self(torch.randn(8, 1, 8, 8))  # in train mode: moves the running mean and variance


class AnySize(nn.Sequential):
    """Images of any height and width."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 2),
        )  # fmt: skip


class _Block(nn.Module):
    """Two convolutions and a short cut."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        self.short = nn.Identity() if stride == 1 else nn.Conv2d(width, out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(x) + self.short(x))


class Residual(nn.Sequential):
    """ResNet-18's eight blocks, 4 to 32 channels wide."""

    def __init__(self) -> None:
        widths = (4, 4, 8, 16, 32)
        blocks = [
            block
            for i, out in enumerate(widths[1:])
            for block in (_Block(widths[i], out, 2 if i else 1), _Block(out, out, 1))
        ]
        super().__init__(
            nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(32, 10),
        )  # fmt: skip


class Recurrent(nn.Module):
    """Two bidirectional recurrent layers over sequences of any length."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layers = kind(3, 4, num_layers=2, bidirectional=True, batch_first=True)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.layers(sequence)[0]
        return states


class Stateful(nn.Module):
    """An LSTM whose state goes in and out, with the batch in front."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> dict[str, torch.Tensor]:
        out, (h, c) = self.lstm(x, (h.transpose(0, 1), c.transpose(0, 1)))
        return {"out": out, "h_next": h.transpose(0, 1), "c_next": c.transpose(0, 1)}


class Encoder(nn.Module):
    """nn.TransformerEncoder with a padding mask: true where there is nothing to see."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x, src_key_padding_mask=padding_mask)
        return y.masked_fill(padding_mask.unsqueeze(-1), 0.0)


class Pair(NamedTuple):
    """Two outputs by field."""

    mean: torch.Tensor
    largest: torch.Tensor


class Nested(nn.Module):
    """Outputs in a dict with a tuple, a field and nothing in it."""

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        return {"double": x * 2, "parts": (x + 1, Pair(x.mean(1), x.amax(1))), "none": None}


class DictInput(nn.Module):
    """Takes its tensors in a dict."""

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return batch["x"] * batch["y"]


class ManyTypes(nn.Module):
    """Inputs of four types, one of them by keyword only."""

    def forward(
        self, ids: torch.Tensor, keep: torch.Tensor, image: torch.Tensor, *, scale: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return ids * keep, image.float() * scale


class Conditional(nn.Module):
    """torch.cond: both ways stay in the graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: v - 1, (x,))
        return found


class Scanning(nn.Module):
    """A running sum by torch's own scan, over any length."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch._higher_order_ops.scan import scan

        def step(total: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            total = total + row
            return total, total.clone()

        _, sums = scan(step, x.new_zeros(x.shape[0], x.shape[2]), x.transpose(0, 1))
        return sums.transpose(0, 1)


class Finding(nn.Module):
    """As many outputs as there are positive values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nonzero(x > 0)


class Spectrum(nn.Module):
    """Magnitudes of a Fourier transform."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft(x).abs()


class Warping(nn.Module):
    """Samples an image at places that are given."""

    def forward(self, image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(image, grid, align_corners=False)


class Sorting(nn.Module):
    """Values and places in order."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, places = torch.sort(x, dim=1)
        return values, places


class Scaling(nn.Module):
    """Twice the size: an output whose extents are expressions of free ones."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return F.interpolate(image, scale_factor=2.0, mode="bilinear")


class PassThrough(nn.Module):
    """Gives its input back."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"same": x, "half": x / 2}


class Tied(nn.Module):
    """Embedding and output share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.out(self.table(tokens))
        return scores
