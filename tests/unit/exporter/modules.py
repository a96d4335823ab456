"""Small PyTorch modules for the tests: sound ones, and ones with one fault each."""

from typing import NamedTuple

import torch
from torch import nn


class Classifier(nn.Module):
    """image FP32 [batch,6] to logits FP32 [batch,3]; the same weights every time."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 5)
        self.scores = nn.Linear(5, 3)
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=random))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the scores."""
        return {"logits": self.scores(torch.relu(self.hidden(image)))}


class TwoHeads(nn.Module):
    """Two inputs, and outputs of several types in a dict with a tuple in it."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, object]:
        """Return sum, whether left is larger, and where the largest value stands."""
        total = left + right
        return {"total": total, "extra": (left > right, total.argmax(dim=1))}


class Fields(NamedTuple):
    """Outputs by field."""

    mean: torch.Tensor
    spread: torch.Tensor


class PassThrough(nn.Module):
    """Returns its input beside something computed from it."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return x itself and its double."""
        return {"same": x, "double": x * 2}


class Noisy(nn.Module):
    """Adds random numbers, so that no two runs agree."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x with noise."""
        return x + torch.rand_like(x)


class Branching(nn.Module):
    """Decides by the number of rows: what is captured holds for small batches only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return twice x, or three times x for many rows."""
        return x * 2 if x.shape[0] <= 4 else x * 3


class Looping(nn.Module):
    """Walks over the rows in Python, which unrolls them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return each row times its number."""
        return torch.stack([x[i] * i for i in range(x.shape[0])])


class Deciding(nn.Module):
    """Decides by a value, which a graph cannot do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x or its negative."""
        if x.sum() > 0:
            return x
        return -x


class Coupled(nn.Module):
    """Softmax over the batch: every row depends on all the others."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return shares of the batch."""
        return x.softmax(dim=0)


class Shrinking(nn.Module):
    """Has a batch of inputs and none of outputs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean row."""
        return x.mean(dim=0)


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x times the number of calls."""
        self.calls += 1
        return x * self.calls


class Masked(nn.Module):
    """tokens INT64 [batch,length] with an optional mask of the same shape."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Return the vectors, zero where masked."""
        vectors: torch.Tensor = self.table(tokens)
        return vectors if mask is None else vectors * mask.unsqueeze(-1)


class Recurrent(nn.Module):
    """Sequences FP32 [batch,length,3] through an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, sequence: torch.Tensor) -> torch.Tensor:
        """Return the state after each step."""
        states: torch.Tensor = self.lstm(sequence)[0]
        return states
