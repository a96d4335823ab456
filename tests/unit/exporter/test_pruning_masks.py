"""Masks of torch.nn.utils.prune: found, taken off, folded into weights."""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.prune import l1_unstructured

from exporter.pruning_masks import described, fold_masks, remove_masks, without_masks


def _masked() -> Any:
    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    l1_unstructured(module[0], "weight", amount=0.5)
    return module


def test_masks_are_taken_off_and_zeros_stay() -> None:
    """The share of zeros is told, and a second time there is nothing to do."""
    module = _masked()
    x = torch.rand(3, 8)
    before = module(x)
    assert remove_masks(module) == {"0.weight": 0.5}
    assert set(module.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    torch.testing.assert_close(module(x), before)
    assert remove_masks(module) == {}


def test_the_module_itself_keeps_its_masks() -> None:
    """A copy loses them, also after a backward pass, when weights have a history."""
    module = _masked()
    module(torch.rand(3, 8)).sum().backward()
    bare, zeros = without_masks(module)
    assert zeros == {"0.weight": 0.5}
    assert "0.weight_mask" in module.state_dict()
    assert "0.weight_mask" not in bare.state_dict()
    x = torch.rand(3, 8)
    torch.testing.assert_close(bare(x), module(x))


def test_a_module_without_masks_is_not_copied() -> None:
    """It is the same object."""
    module = nn.Linear(2, 2)
    assert without_masks(module) == (module, {})


def test_a_checkpoint_with_masks_fits_the_bare_module() -> None:
    """Original times mask is the weight; names that only look alike stay."""
    module = _masked()
    weights = {**module.state_dict(), "other_orig": torch.ones(1)}
    folded = fold_masks(weights)
    assert set(folded) == {"0.weight", "0.bias", "2.weight", "2.bias", "other_orig"}
    torch.testing.assert_close(folded["0.weight"], module[0].weight)


def test_what_it_is_worth_is_said() -> None:
    """The report does not let anybody hope."""
    assert described({"a": 0.5, "b": 0.9}).startswith("2 taken off, 70% zeros left")
    assert "neither smaller nor faster" in described({"a": 0.5})
