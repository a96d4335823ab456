"""Structured pruning: whole neurons and channels are cut out, so that the model really shrinks.

    from exporter.prune import prune

    pruned = prune(module, example, share=0.5, finetune=train, evaluate=accuracy)
    print(pruned.report)

Only layers whose channels provably go to one other layer are cut (`exporter.chains`). What was cut
is proved against the same module with those channels masked, before any fine-tuning.

Unstructured pruning (torch.nn.utils.prune) sets single weights to zero: neither the file nor the
answer gets smaller or faster by it, because nothing skips a zero. Its masks are taken off.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from exporter.chains import CONVOLUTIONS, Chain, Chains, find_chains
from exporter.errors import CompressionFailed, UsageError, table
from exporter.pruning_masks import without_masks
from service.errors import listed

_RELATIVE: Final = 1e-4  # of the largest output: sums of floats in another order

Finetune: TypeAlias = Callable[[nn.Module], None]
Metric: TypeAlias = Callable[[nn.Module], float]
Importance: TypeAlias = Callable[[nn.Module, nn.Module, Sequence[nn.Module]], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Cut:
    """A layer that lost channels: how many there were and how many are left."""

    layer: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What pruning did. refused: layers that were left whole, and why.

    parameters: before and after. metric: the user's, before, after the cut and after fine-tuning;
    None where there is none. difference: of the outputs from the masked module's, over the
    largest of them.
    """

    cuts: tuple[Cut, ...]
    refused: Mapping[str, str]
    parameters: tuple[int, int]
    difference: float
    metric: tuple[float | None, float | None, float | None]

    def __str__(self) -> str:
        """Return the report as text for people."""
        before, after = self.parameters
        rows = [[cut.layer, str(cut.before), str(cut.after)] for cut in self.cuts]
        lines = [
            f"parameters {before} -> {after} ({after / before:.0%})",
            table(("layer", "channels", "left"), rows),
            *(f"  '{layer}' is left whole: {reason}" for layer, reason in self.refused.items()),
        ]
        names = ("before", "after the cut", "after fine-tuning")
        known = [f"{n} {v:.4f}" for n, v in zip(names, self.metric, strict=True) if v is not None]
        return "\n".join(lines + ([f"metric: {', '.join(known)}"] if known else []))


@dataclass(frozen=True, slots=True)
class Pruned:
    """A smaller module. The one that it was made from is as it was."""

    module: nn.Module
    report: PruneReport


def prune(  # noqa: PLR0913 (each argument is a decision of the user's, and has a default)
    module: nn.Module,
    example_inputs: Any,
    *,
    share: float = 0.5,
    layers: Sequence[str] | Mapping[str, float] | None = None,
    multiple_of: int = 1,
    importance: Importance | None = None,
    finetune: Finetune | None = None,
    evaluate: Metric | None = None,
) -> Pruned:
    """Cut the least important neurons and channels out of a copy of a module.

    example_inputs: one tensor, or several in the order of forward's arguments.
    share: of the channels of each layer that goes. layers: only these, by name, or the share of
    each; default: all that can be proved. multiple_of: numbers of channels that are left, as 8
    suits vector units. importance: (layer, reader, norms) to one number a channel; default: the
    norm of the weights that make it, times that of the weights that read it.
    finetune: trains the cut module in place. evaluate: higher is better; told, not judged.

    Raises UsageError for a share or a layer that cannot be, CompressionFailed if nothing can be
    cut or the cut module differs from the masked one.
    """
    bare, _ = without_masks(module)
    pruned = copy.deepcopy(module) if bare is module else bare
    chains = find_chains(pruned)
    shares = _shares(chains, share, layers)
    before, first = _count(pruned), evaluate(pruned) if evaluate else None
    masked = copy.deepcopy(pruned)
    cuts = []
    for chain in chains.found:
        if chain.layer in shares:
            cut = _cut(chain, pruned, masked, shares[chain.layer], multiple_of,
                       importance or weight_norms)  # fmt: skip
            cuts.append(cut)
    difference = _prove(pruned, masked, example_inputs)
    second = evaluate(pruned) if evaluate else None
    third = None
    if finetune is not None:
        finetune(pruned)
        third = evaluate(pruned) if evaluate else None
    report = PruneReport(
        tuple(cuts), chains.refused, (before, _count(pruned)), difference, (first, second, third)
    )
    return Pruned(pruned, report)


def weight_norms(layer: nn.Module, reader: nn.Module, norms: Sequence[nn.Module]) -> torch.Tensor:
    """Return the norm of what makes each channel times that of what reads it.

    Batch norms scale what is made, so that a channel with a small factor counts as little.
    """
    made = _weight(layer).flatten(1).norm(dim=1)
    for norm in norms:
        if norm.weight is not None:
            made = made * norm.weight.abs() / (norm.running_var + norm.eps).sqrt()
    read = _by_channel(reader, len(made)).transpose(0, 1).flatten(1).norm(dim=1)
    return made * read


def _shares(
    chains: Chains, share: float, layers: Sequence[str] | Mapping[str, float] | None
) -> dict[str, float]:
    """Return what share of which layer is to go. Raises if that cannot be."""
    found = [chain.layer for chain in chains.found]
    if layers is None:
        if not found:
            reasons = "; ".join(f"'{name}': {why}" for name, why in chains.refused.items())
            raise CompressionFailed(
                f"no layer can be pruned: {reasons or 'there is no linear layer or convolution'}",
            )
        shares = dict.fromkeys(found, share)
    else:
        shares = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, share)
    for name, value in shares.items():
        if name in chains.refused:
            raise CompressionFailed(f"'{name}' cannot be pruned: {chains.refused[name]}")
        if name not in found:
            raise UsageError(f"there is no layer '{name}'; {listed(found)} can be pruned")
        if not 0 < value < 1:
            raise UsageError(f"share of '{name}' is {value:g}; expected more than 0, less than 1")
    return shares


def _cut(
    chain: Chain,
    pruned: nn.Module,
    masked: nn.Module,
    share: float,
    multiple_of: int,
    importance: Importance,
) -> Cut:
    """Cut a layer of one module, and mask what was cut in the other."""
    layer, reader = pruned.get_submodule(chain.layer), pruned.get_submodule(chain.reader)
    norms = [pruned.get_submodule(name) for name in chain.norms]
    with torch.no_grad():
        scores = importance(layer, reader, norms)
        total = len(_weight(layer))
        if scores.shape != (total,):
            raise UsageError(
                f"importance gave a tensor {list(scores.shape)} for '{chain.layer}'; expected one "
                f"number for each of its {total} channels",
            )
        left = max(1, round(total * (1 - share)))
        left = min(total, -(-left // multiple_of) * multiple_of)
        keep = scores.topk(left).indices.sort().values
        gone = torch.ones(total, dtype=torch.bool).index_fill(0, keep, value=False)
        _by_channel(masked.get_submodule(chain.reader), total)[:, gone] = 0
        _shrink_made(layer, keep)
        for norm in norms:
            _shrink_norm(norm, keep)
        _shrink_read(reader, keep, total)
    return Cut(chain.layer, total, left)


def _shrink_made(layer: Any, keep: torch.Tensor) -> None:
    layer.weight = _kept(layer.weight, keep)
    if layer.bias is not None:
        layer.bias = _kept(layer.bias, keep)
    if isinstance(layer, CONVOLUTIONS):
        layer.out_channels = len(keep)
    else:
        layer.out_features = len(keep)


def _shrink_norm(norm: Any, keep: torch.Tensor) -> None:
    for name in ("weight", "bias"):
        if getattr(norm, name) is not None:
            setattr(norm, name, _kept(getattr(norm, name), keep))
    for name in ("running_mean", "running_var"):
        if getattr(norm, name) is not None:
            setattr(norm, name, getattr(norm, name)[keep].clone())
    norm.num_features = len(keep)


def _shrink_read(reader: Any, keep: torch.Tensor, total: int) -> None:
    by_channel = _by_channel(reader, total)[:, keep]
    if isinstance(reader, CONVOLUTIONS):
        reader.weight = nn.Parameter(by_channel.clone(), reader.weight.requires_grad)
        reader.in_channels = len(keep)
    else:
        reader.weight = nn.Parameter(by_channel.flatten(1).clone(), reader.weight.requires_grad)
        reader.in_features = reader.weight.shape[1]


def _kept(parameter: nn.Parameter, keep: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach()[keep].clone(), parameter.requires_grad)


def _by_channel(reader: Any, channels: int) -> torch.Tensor:
    """Return a view of the reader's weights [out, channels, features of each channel...]."""
    weight = _weight(reader)
    if isinstance(reader, CONVOLUTIONS):
        return weight
    return weight.view(len(weight), channels, -1)


def _weight(layer: Any) -> torch.Tensor:
    weight: torch.Tensor = layer.weight.detach()
    return weight


def _prove(pruned: nn.Module, masked: nn.Module, example_inputs: Any) -> float:
    """Return how far the cut module is from the masked one; raise if that is too far."""
    inputs = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
    got, want = _outputs(pruned, inputs), _outputs(masked, inputs)
    worst = 0.0
    for one, other in zip(got, want, strict=True):
        if one.shape != other.shape:
            raise CompressionFailed(
                f"pruning changed the shape of an output from {list(other.shape)} to "
                f"{list(one.shape)}",
            )
        largest = float(other.abs().max()) if other.numel() else 0.0
        gap = float((one - other).abs().max()) if other.numel() else 0.0
        worst = max(worst, gap / largest if largest else gap)
    if not worst <= _RELATIVE:
        raise CompressionFailed(
            f"the cut module differs from the masked one by {worst:.3g} of the largest output: "
            "some channel is used where the trace does not show it",
        )
    return worst


def _outputs(module: nn.Module, inputs: Sequence[Any]) -> list[torch.Tensor]:
    from torch.utils import _pytree as pytree  # noqa: PLC0415 (torch's own flattening)

    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad():
            leaves = pytree.tree_leaves(module.eval()(*inputs))
    finally:
        for part, mode in modes.items():
            part.training = mode
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
