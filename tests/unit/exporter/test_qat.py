"""Quantisation-aware training: what is refused before any of it runs."""

import sys
from typing import Any

import pytest
import torch
from torch import nn

from exporter.errors import CompressionFailed, UsageError
from exporter.qat import train_quantised


def _untouched(_module: nn.Module) -> None:
    raise AssertionError("it must not get as far as training")


@pytest.mark.parametrize(
    ("examples", "says"),
    [
        (torch.rand(1, 4), "at least two rows"),
        (torch.tensor(1.0), "at least two rows"),
        ((torch.rand(2, 4), torch.rand(2, 4)), r"do not fit forward\(input"),
        ({"image": torch.rand(2, 4)}, r"do not fit forward\(input"),
    ],
)
def test_examples_that_do_not_fit_are_refused(examples: Any, says: str) -> None:
    """By the name of the argument, or the signature of forward."""
    with pytest.raises(UsageError, match=says):
        train_quantised(nn.Linear(4, 2), examples, train=_untouched)


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "torchao.quantization.pt2e", None)
    with pytest.raises(UsageError, match=r"pip install 'penstock\[qat\]'"):
        train_quantised(nn.Linear(4, 2), torch.rand(2, 4), train=_untouched)


def test_a_module_without_layers_changes_nothing() -> None:
    """It is told instead of returning what is as large as before."""
    with pytest.raises(CompressionFailed, match="changed nothing"):
        train_quantised(nn.ReLU(), torch.rand(2, 4), train=lambda _: None)


class _Deciding(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_module_that_cannot_be_captured_is_told() -> None:
    """With torch's own first line."""
    with pytest.raises(CompressionFailed, match="cannot be captured with a free batch"):
        train_quantised(_Deciding(), torch.rand(2, 4), train=_untouched)
