"""Structured pruning: what is cut, what is refused and why, and that nothing else changes."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.prune import l1_unstructured

from exporter.chains import Chain, find_chains
from exporter.errors import CompressionFailed, UsageError
from exporter.prune import prune


class Net(nn.Module):
    """Conv, batch norm, pooling, flatten, linear: every kind of chain."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 12, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(12 * 16, 20)
        self.scores = nn.Linear(20, 5)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return scores [batch, 5] of images [batch, 1, 8, 8]."""
        x = torch.relu(self.norm(self.first(image)))
        x = self.pool(nn.functional.gelu(self.second(x)))
        x = torch.sigmoid(self.hidden(x.view(x.size(0), -1)))
        return {"scores": self.scores(x)}


class Block(nn.Module):
    """A residual block: the inner channels can go, the outer ones cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 3, padding=1)
        self.outer = nn.Conv2d(4, 4, 3, padding=1)
        self.scores = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores [batch, 2]."""
        total = x + self.outer(torch.relu(self.inner(x)))
        scores: torch.Tensor = self.scores(total.mean(dim=(2, 3)))
        return scores


class Shared(nn.Module):
    """One layer called twice, two that share weights, one that goes two ways, one into a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.tied.weight
        self.fork = nn.Linear(4, 6)
        self.normed = nn.Linear(6, 6)
        self.layer_norm = nn.LayerNorm(6)
        self.left, self.right = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two outputs."""
        x = self.fork(self.other(self.tied(self.twice(torch.relu(self.twice(x))))))
        return self.left(x), self.right(self.layer_norm(self.normed(x)))


class Branching(nn.Module):
    """A branch on a value: nothing can be proved."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x or its negative."""
        return x if x.sum() > 0 else -x


def _seeded(module: nn.Module) -> nn.Module:
    """Give a module random weights and batch norms a history, the same every time."""
    torch.manual_seed(0)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 2.0)
    return module


_IMAGE = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_chains_end_where_channels_are_read() -> None:
    """Through batch norm, activations, pooling and flatten, to the next layer."""
    chains = find_chains(Net())
    assert chains.found == (
        Chain("first", "second", ("norm",)), Chain("second", "hidden"), Chain("hidden", "scores"),
    )  # fmt: skip
    assert chains.refused == {"scores": "its channels are an output of the model"}


def test_a_cut_module_is_the_masked_one() -> None:
    """Before fine-tuning it computes what the module computes with those channels masked."""
    module = _seeded(Net())
    pruned = prune(module, _IMAGE, share=0.5)
    net: Any = pruned.module
    kept = [net.first.out_channels, net.norm.num_features, net.second.in_channels,
            net.second.out_channels, net.hidden.in_features, net.hidden.out_features]  # fmt: skip
    assert kept == [4, 4, 4, 6, 6 * 16, 10]
    assert pruned.report.difference < 1e-5
    assert net(_IMAGE)["scores"].shape == (3, 5)


def test_masking_by_hand_gives_the_same() -> None:
    """The proof is worth something: a mask made here, of the channel that was cut, agrees."""
    module: Any = _seeded(nn.Sequential(nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 2)))
    with torch.no_grad():
        module[0].weight[1] = 1e-6  # the least important one
        module[2].weight[:, 1] *= 1e-3
    x = torch.rand(5, 6)
    pruned = prune(module, x, share=0.25).module
    with torch.no_grad():
        module[2].weight[:, 1] = 0
    torch.testing.assert_close(pruned(x), module(x))


def test_the_module_is_left_as_it_was() -> None:
    """Pruning works on a copy."""
    module = _seeded(Net())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    prune(module, _IMAGE)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_the_least_important_channels_go() -> None:
    """A neuron that nothing reads goes first."""
    module: Any = _seeded(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    with torch.no_grad():
        module[2].weight[:, [0, 3]] = 0
    pruned: Any = prune(module, torch.rand(2, 3), share=0.5).module
    torch.testing.assert_close(pruned[0].weight, module[0].weight[[1, 2]])


def test_importance_can_be_the_users() -> None:
    """A function of the layers decides; one of another shape is refused."""
    module: Any = _seeded(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    pruned: Any = prune(
        module, torch.rand(2, 3), importance=lambda *_: torch.tensor([9.0, 0.0, 0.0, 8.0])
    ).module
    torch.testing.assert_close(pruned[0].weight, module[0].weight[[0, 3]])
    with pytest.raises(UsageError, match=r"gave a tensor \[2\] for '0'; .*its 4 channels"):
        prune(module, torch.rand(2, 3), importance=lambda *_: torch.ones(2))


def test_a_module_with_masks_can_be_cut() -> None:
    """Masks of single weights are taken off the copy; the module keeps its own."""
    module: Any = _seeded(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)))
    l1_unstructured(module[0], "weight", amount=0.5)
    module(torch.rand(2, 8)).sum().backward()
    net: Any = prune(module, torch.rand(2, 8)).module
    assert set(net.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert "0.weight_mask" in module.state_dict()


def test_only_the_inside_of_a_residual_block_is_cut() -> None:
    """What is added to something else keeps its channels, and the report says so."""
    pruned = prune(_seeded(Block()), torch.rand(2, 4, 6, 6))
    net: Any = pruned.module
    assert (net.inner.out_channels, net.outer.out_channels) == (2, 4)
    assert "a residual connection" in pruned.report.refused["outer"]
    assert "'outer' is left whole" in str(pruned.report)


def test_asking_for_a_layer_that_cannot_be_cut_is_an_error() -> None:
    """By name, with the reason."""
    with pytest.raises(CompressionFailed, match=r"'outer' cannot be pruned: .*residual"):
        prune(Block(), torch.rand(2, 4, 6, 6), layers=["outer"])


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("twice", "called 2 times"),
        ("tied", "shares its weights with 'other'"),
        ("fork", r"goes to .*left.* and .*normed"),
        ("normed", r"'layer_norm' \(LayerNorm\) does not treat each channel alone"),
    ],
)
def test_what_cannot_be_proved_is_refused(layer: str, says: str) -> None:
    """Each with the reason, and nothing is left to cut."""
    with pytest.raises(CompressionFailed, match=f"'{layer}' cannot be pruned: .*{says}"):
        prune(Shared(), torch.rand(2, 4), layers=[layer])


@pytest.mark.parametrize(
    ("module", "example"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 2, 3)), (1, 4, 8, 8)),
        (nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2)), (1, 4, 8, 8)),
        (nn.Sequential(nn.Conv2d(4, 4, 3), nn.Linear(6, 2)), (1, 4, 8, 8)),
        (nn.Sequential(nn.Linear(4, 4), nn.Flatten(), nn.Linear(12, 2)), (1, 3, 4)),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(dim=1), nn.Linear(4, 2)), (1, 4)),
    ],
)
def test_a_module_without_a_chain_is_refused(module: nn.Module, example: tuple[int, ...]) -> None:
    """Groups, a reader of another axis, flattened sequences and softmax tie channels together."""
    with pytest.raises(CompressionFailed, match="no layer can be pruned: '0'"):
        prune(module, torch.rand(example))


def test_a_module_that_cannot_be_traced_is_refused() -> None:
    """The message names the cause."""
    with pytest.raises(UsageError, match=r"cannot be traced.*TraceError"):
        prune(Branching(), torch.rand(2, 3))


def test_shares_are_checked_and_rounded() -> None:
    """One share for each layer, left channels a multiple of what vectors like."""
    net: Any = prune(_seeded(Net()), _IMAGE, layers={"hidden": 0.7}, multiple_of=8).module
    assert (net.hidden.out_features, net.first.out_channels) == (8, 8)
    for share in (0.0, 1.0, -1.0, 2.0):
        with pytest.raises(UsageError, match="more than 0, less than 1"):
            prune(Net(), _IMAGE, share=share)
    with pytest.raises(UsageError, match=r"no layer 'hiden'; \['first','second','hidden'\]"):
        prune(Net(), _IMAGE, layers=["hiden"])


def test_fine_tuning_and_the_metric_are_the_users() -> None:
    """The metric is told before, after the cut and after fine-tuning what was cut."""

    def finetune(module: Any) -> None:
        assert module.hidden.out_features == 10
        module.scores.bias.data.fill_(7.0)

    def evaluate(module: Any) -> float:
        return float(module.scores.bias.detach().mean())

    report = prune(_seeded(Net()), _IMAGE, finetune=finetune, evaluate=evaluate).report
    before, cut, tuned = report.metric
    assert before == cut != tuned == 7.0
    assert report.parameters[1] < report.parameters[0] / 1.5
    assert "after fine-tuning 7.0000" in str(report)
