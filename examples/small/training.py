"""A plain training loop for the small PyTorch examples, the same for each of them."""

import torch
from torch import nn


def fit(
    model: nn.Module, inputs: dict[str, torch.Tensor], labels: torch.Tensor, *, epochs: int
) -> nn.Module:
    """Train a model that gives {"logits": ...} with Adam on cross-entropy; return it in eval mode.

    inputs: by argument of forward. Deterministic: the seed is set here.
    """
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(32):
            found = model(**{name: tensor[rows] for name, tensor in inputs.items()})
            loss = nn.functional.cross_entropy(found["logits"], labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model.eval()


def logits(model: nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what the model says of all rows."""
    with torch.no_grad():
        found: torch.Tensor = model(**inputs)["logits"]
    return found
