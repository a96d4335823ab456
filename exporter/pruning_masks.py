"""Masks of torch.nn.utils.prune: taken off, because they double a file and speed up nothing.

With a mask, a weight is stored twice (`weight_orig`, `weight_mask`) and multiplied in every call.
Without it the zeros stay, but nothing skips a zero: the model is as large and as slow as before
pruning. Pruning that pays is structured: `exporter.prune`.
"""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

_ORIGINAL, _MASK = "_orig", "_mask"


def without_masks(module: nn.Module) -> tuple[nn.Module, dict[str, float]]:
    """Return the module, or, if it has masks, a copy without; and the share of zeros by weight."""
    found = [*_masked(module)]
    if not found:
        return module, {}
    for _, part, tensor in found:
        # A product with a history cannot be copied; the hook of the mask makes it anew anyway.
        setattr(part, tensor, getattr(part, tensor).detach())
    bare = copy.deepcopy(module)
    return bare, remove_masks(bare)


def remove_masks(module: nn.Module) -> dict[str, float]:
    """Make the masks of a module final, in place; return the share of zeros by weight."""
    zeros = {}
    for name, part, tensor in [*_masked(module)]:
        torch_prune.remove(part, tensor)
        zeros[name] = float((getattr(part, tensor) == 0).double().mean())
    return zeros


def fold_masks(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict with each `NAME_orig` times `NAME_mask` as NAME."""
    folded = dict(weights)
    for name in [*folded]:
        bare = name.removesuffix(_ORIGINAL)
        if bare != name and bare not in folded and bare + _MASK in folded:
            folded[bare] = folded.pop(name) * folded.pop(bare + _MASK)
    return folded


def described(zeros: Mapping[str, float]) -> str:
    """Return what was taken off, and what it is worth, for the report."""
    share = sum(zeros.values()) / len(zeros)
    return (
        f"{len(zeros)} taken off, {share:.0%} zeros left; zeros of single weights make a model "
        "neither smaller nor faster"
    )


def _masked(module: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield the name of each masked weight, its module, and its name in there."""
    for path, part in module.named_modules():
        for hook in part._forward_pre_hooks.values():  # noqa: SLF001 (as torch's is_pruned does)
            if isinstance(hook, torch_prune.BasePruningMethod):
                tensor = hook._tensor_name  # noqa: SLF001 (there is no public way to ask)
                yield (f"{path}.{tensor}" if path else tensor), part, tensor
