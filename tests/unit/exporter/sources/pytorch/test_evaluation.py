"""Borrowing a module: eval mode inside, everything as before afterwards."""

import pytest
import torch
from torch import nn

from exporter.errors import ConversionFailed
from exporter.sources.pytorch.evaluation import evaluating
from tests.unit.exporter.modules import Counting


def test_modes_come_back_part_by_part() -> None:
    """A module with a frozen part in eval mode gets exactly that back."""
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
    module[1].eval()
    with evaluating(module):
        assert not any(part.training for part in module.modules())
        assert not torch.is_grad_enabled()
    assert [part.training for part in module.modules()] == [True, True, False]


def test_a_module_that_changes_its_buffers_is_refused_and_restored() -> None:
    """State between calls cannot be served; the module gets its own back."""
    module = Counting()
    with pytest.raises(ConversionFailed, match="'calls'"), evaluating(module):
        module(torch.zeros(1))
    assert module.calls.item() == 0.0


def test_an_error_inside_restores_too() -> None:
    """Mode and buffers come back when the export fails."""
    module = Counting()
    with pytest.raises(ZeroDivisionError), evaluating(module):
        module(torch.full((0,), 1 / 0))
    assert module.training
    assert module.calls.item() == 0.0


def test_nan_buffers_are_no_change() -> None:
    """A buffer that holds NaN before and after has not changed."""
    module = nn.Identity()
    module.register_buffer("bound", torch.tensor([float("nan"), float("inf")]))
    with evaluating(module):
        module(torch.zeros(1))


def test_the_random_state_of_the_caller_is_kept() -> None:
    """An export in the middle of a training does not change its random numbers."""
    torch.manual_seed(1)
    want = torch.rand(3)
    torch.manual_seed(1)
    with evaluating(nn.Identity()):
        torch.rand(100)
    assert torch.equal(torch.rand(3), want)
