"""Inputs of a module: names, order, axes, datatypes."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from exporter.errors import UsageError
from exporter.inputs import bind_inputs, call
from service.tensors import BOOL, FP32, INT64
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


def test_a_single_tensor_takes_the_name_of_the_argument() -> None:
    """An input is called as forward calls it, and its axis 0 is the batch."""
    (image,) = bind_inputs(Classifier(), torch.rand(1, 6))
    assert (image.name, image.datatype, dict(image.axes)) == ("image", FP32, {0: "batch"})


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
    inputs = bind_inputs(TwoHeads(), examples)
    assert [(i.name, float(i.example.sum())) for i in inputs] == [("left", 0.0), ("right", 6.0)]


def test_an_optional_argument_may_be_left_out() -> None:
    """What has no example is no input."""
    inputs = bind_inputs(Masked(), {"tokens": torch.zeros(2, 5, dtype=torch.int64)})
    assert [(i.name, i.datatype) for i in inputs] == [("tokens", INT64)]


def test_an_optional_argument_becomes_an_input_when_it_is_given() -> None:
    """An example for an optional argument makes it an input."""
    mask = torch.ones(2, 5, dtype=torch.bool)
    inputs = bind_inputs(Masked(), (torch.zeros(2, 5, dtype=torch.int64), mask))
    assert [(i.name, i.datatype) for i in inputs] == [("tokens", INT64), ("mask", BOOL)]


def test_arguments_after_a_star_are_numbered_and_reach_forward_in_order() -> None:
    """*rest gives rest_0, rest_1, and calling with them is calling with the examples."""
    module = Star()
    inputs = bind_inputs(module, [torch.full((1, 1), float(n)) for n in (10, 1, 2)])
    assert [i.name for i in inputs] == ["first", "rest_0", "rest_1"]
    assert call(module, inputs, [i.example for i in inputs]).item() == 7.0


def test_further_axes_can_be_free() -> None:
    """Axes besides the batch are free by the name that is given."""
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    (item,) = bind_inputs(Masked(), tokens, dynamic_axes={"tokens": {1: "length"}})
    assert dict(item.axes) == {0: "batch", 1: "length"}


def test_without_a_batch_no_axis_is_free() -> None:
    """batch=False fixes the shape, also of a tensor without axes."""
    (item,) = bind_inputs(Classifier(), torch.tensor(1.0), batch=False)
    assert dict(item.axes) == {}


def test_examples_are_contiguous_copies() -> None:
    """Later changes of the example do not reach the export; strides do not either."""
    example = torch.zeros(6, 2).T
    (item,) = bind_inputs(Classifier(), example)
    example += 1
    assert item.example.is_contiguous()
    assert float(item.example.sum()) == 0.0


@pytest.mark.parametrize(
    ("module", "examples", "text"),
    [
        (TwoHeads(), torch.zeros(1, 3), "missing a required argument: 'right'"),
        (TwoHeads(), {"left": torch.zeros(1, 3), "up": torch.zeros(1, 3)}, "do not fit forward"),
        (TwoHeads(), (torch.zeros(1, 3), 3), "'right' is of type int; only tensors"),
        (Masked(), (), "missing a required argument: 'tokens'"),
        (Classifier(), torch.tensor(1.0), "axis 0 must be the batch"),
        (Classifier(), torch.zeros(0, 6), "at least one row"),
        (Classifier(), torch.zeros(1, 6, dtype=torch.bfloat16), "bfloat16"),
        (Classifier(), torch.zeros(1, 6, dtype=torch.complex64), "torch.complex64"),
        (Keywords(), {"x": torch.zeros(1, 6)}, "cannot name its inputs"),
    ],
)
def test_examples_that_do_not_fit_are_refused(
    module: nn.Module, examples: object, text: str
) -> None:
    """What is wrong with an example is said in words."""
    with pytest.raises(UsageError, match=re.escape(text)):
        bind_inputs(module, examples)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["a"], "1 input names"),
        (["a", "a"], "given twice"),
        (["a", "b c"], "'b c' cannot name an input"),
        (["a", ""], "'' cannot name an input"),
        (["a", "é"], "cannot name an input"),
    ],
)
def test_names_that_are_no_names_are_refused(names: list[str], text: str) -> None:
    """Too few, repeated and malformed names are refused before anything is converted."""
    examples = (torch.zeros(1, 3), torch.zeros(1, 3))
    with pytest.raises(UsageError, match=text):
        bind_inputs(TwoHeads(), examples, names=names)


@pytest.mark.parametrize("axes", [{"image": {2: "height"}}, {"picture": {1: "height"}}])
def test_free_axes_must_exist(axes: dict[str, dict[int, str]]) -> None:
    """An axis or input that is not there cannot be free."""
    with pytest.raises(UsageError, match=r"no axis 2|picture"):
        bind_inputs(Classifier(), torch.zeros(1, 6), dynamic_axes=axes)
