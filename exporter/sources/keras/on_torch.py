"""A Keras model on the torch backend as a torch module with one argument for each input.

Keras' own forward takes *args and **kwargs, in which torch finds no free axes.
"""

from typing import Any

import torch

from exporter.sources.keras.structure import Arrange, flatten


def wrapped(model: Any, arrange: Arrange) -> torch.nn.Module:
    """Return the module. arrange: makes the argument of a call of one tensor for each input."""

    class Wrapped(torch.nn.Module):
        """Calls the model and gives its outputs by name."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            """Return what the model gives, out of training."""
            return dict(flatten(self.model(arrange(list(inputs)), training=False)))

    return Wrapped()
