"""Models that cannot be served as they are, each for one reason."""

# ruff: noqa: D102 (forward does what its class says)
import torch
from torch import nn


class Unrolled(nn.Module):
    """A Python loop over a length that is to be free: an exporter may unroll it silently."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            total = total * 0.5 + x[:, step]
        return total


class PlainRecurrent(nn.Module):
    """nn.RNN has no operator of its own in torch's export: it is unrolled."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 4, batch_first=True)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.rnn(sequence)[0]
        return states


class Deciding(nn.Module):
    """A Python `if` on a value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


class Decomposing(nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.svd(x)[1]


class Constant(nn.Module):
    """Returns a number of Python beside its tensor."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return x.relu(), 3


class Remembering(nn.Module):
    """Changes a buffer with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x.detach().sum(0)
        return x + self.total


class Texts(nn.Module):
    """Wants strings."""

    def forward(self, text: str) -> torch.Tensor:
        return torch.tensor([float(len(text))])


class Cached(nn.Module):
    """Returns the cache of a language model, which is no tensor."""

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        from transformers import DynamicCache

        return {"x": x, "cache": DynamicCache()}
