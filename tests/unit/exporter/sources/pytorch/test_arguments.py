"""Arguments of forward: names, order, and which tensor is which input."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from exporter.errors import UsageError
from exporter.sources.pytorch.arguments import bind
from tests.unit.exporter.modules import Classifier, Masked, TwoHeads


class Star(nn.Module):
    """Takes any number of tensors after the first."""

    def forward(self, first: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        """Return first minus the sum of the rest."""
        return first - sum(rest)


class Keywords(nn.Module):
    """Takes tensors by any name."""

    def forward(self, **tensors: torch.Tensor) -> torch.Tensor:
        """Return one of them."""
        return tensors["x"]


class Pair(nn.Module):
    """Takes its tensors in a dict."""

    def forward(self, pair: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the difference."""
        return pair["x"] - pair["y"]


def test_a_single_tensor_takes_the_name_of_the_argument() -> None:
    """An input is called as forward calls it."""
    arguments, arrays = bind(Classifier(), torch.rand(1, 6))
    assert arguments.names == tuple(arrays) == ("image",)


@pytest.mark.parametrize(
    "examples",
    [
        (torch.zeros(2, 3), torch.ones(2, 3)),
        [np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)],
        {"right": torch.ones(2, 3), "left": torch.zeros(2, 3)},
    ],
    ids=["tuple", "arrays", "names"],
)
def test_examples_may_be_given_in_order_or_by_name(examples: object) -> None:
    """However the examples are given, each meets its argument."""
    _, arrays = bind(TwoHeads(), examples)
    assert [(name, float(a.sum())) for name, a in arrays.items()] == [("left", 0.0), ("right", 6.0)]


def test_an_optional_argument_may_be_left_out() -> None:
    """What has no example is no input."""
    assert bind(Masked(), {"tokens": torch.zeros(2, 5, dtype=torch.int64)})[0].names == ("tokens",)


def test_an_optional_argument_becomes_an_input_when_it_is_given() -> None:
    """An example for an optional argument makes it an input."""
    mask = torch.ones(2, 5, dtype=torch.bool)
    _, arrays = bind(Masked(), (torch.zeros(2, 5, dtype=torch.int64), mask))
    assert [(n, a.dtype.name) for n, a in arrays.items()] == [("tokens", "int64"), ("mask", "bool")]


def test_arguments_after_a_star_are_numbered_and_reach_forward_in_order() -> None:
    """*rest gives rest_0, rest_1, and calling with them is calling with the examples."""
    module = Star()
    arguments, arrays = bind(module, [torch.full((1, 1), float(n)) for n in (10, 1, 2)])
    assert arguments.names == ("first", "rest_0", "rest_1")
    assert arguments.call(module, [torch.from_numpy(a) for a in arrays.values()]).item() == 7.0


def test_tensors_in_a_dict_are_inputs_of_their_own() -> None:
    """An argument that is a dict of tensors is taken apart and put together again."""
    module = Pair()
    pair = {"x": torch.ones(1, 2), "y": torch.full((1, 2), 3.0)}
    arguments, arrays = bind(module, {"pair": pair})
    assert arguments.names == ("pair_x", "pair_y")
    tensors = [torch.from_numpy(a) for a in arrays.values()]
    assert arguments.call(module, tensors).tolist() == [[-2.0, -2.0]]
    assert bind(module, (pair,))[0].names == ("pair_x", "pair_y")


def test_examples_are_contiguous_copies() -> None:
    """Later changes of the example do not reach the export; strides do not either."""
    example = torch.zeros(6, 2).T
    _, arrays = bind(Classifier(), example)
    example += 1
    assert arrays["image"].flags.c_contiguous
    assert float(arrays["image"].sum()) == 0.0


@pytest.mark.parametrize(
    ("module", "examples", "text"),
    [
        (TwoHeads(), torch.zeros(1, 3), "missing a required argument: 'right'"),
        (TwoHeads(), {"left": torch.zeros(1, 3), "up": torch.zeros(1, 3)}, "do not fit forward"),
        (TwoHeads(), (torch.zeros(1, 3), 3), "'right' is of type int; only tensors"),
        (Masked(), (), "missing a required argument: 'tokens'"),
        (Classifier(), torch.zeros(1, 6, dtype=torch.bfloat16), "bfloat16"),
        (Classifier(), torch.zeros(1, 6, dtype=torch.complex64), "complex64"),
        (Keywords(), {"x": torch.zeros(1, 6)}, "cannot name its inputs"),
    ],
)
def test_examples_that_do_not_fit_are_refused(
    module: nn.Module, examples: object, text: str
) -> None:
    """What is wrong with an example is said in words."""
    with pytest.raises(UsageError, match=re.escape(text)):
        bind(module, examples)


@pytest.mark.parametrize(("names", "text"), [(["a"], "1 input names"), (["a", "a"], "given twice")])
def test_too_few_and_repeated_names_are_refused(names: list[str], text: str) -> None:
    """Every input needs one name of its own."""
    examples = (torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(UsageError, match=text):
        bind(TwoHeads(), examples, names=names)
