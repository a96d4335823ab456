"""Inputs of a model: names, axes, datatypes."""

import re

import numpy as np
import pytest

from exporter.errors import UsageError
from exporter.inputs import make_inputs
from service.tensors import FP32, Array

_IMAGE = np.zeros((1, 6), np.float32)


def test_axis_zero_is_the_batch() -> None:
    """Every input has the datatype of its example, and its axis 0 is the batch."""
    (image,) = make_inputs({"image": _IMAGE}, batch=True)
    assert (image.name, image.datatype, dict(image.axes)) == ("image", FP32, {0: "batch"})


def test_further_axes_can_be_free() -> None:
    """Axes besides the batch are free by the name that is given."""
    (item,) = make_inputs({"image": _IMAGE}, batch=True, dynamic_axes={"image": {1: "length"}})
    assert dict(item.axes) == {0: "batch", 1: "length"}


def test_without_a_batch_no_axis_is_free() -> None:
    """batch=False fixes the shape, also of a tensor without axes."""
    (item,) = make_inputs({"image": np.array(1.0, np.float32)}, batch=False)
    assert (dict(item.axes), item.example.shape) == ({}, ())


def test_ranges_bound_the_random_data() -> None:
    """A range is kept with its input."""
    (item,) = make_inputs({"image": _IMAGE}, batch=True, ranges={"image": (0, 255)})
    assert (item.low, item.high) == (0, 255)


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (np.array(1.0, np.float32), "axis 0 must be the batch"),
        (np.zeros((0, 6), np.float32), "at least one row"),
        (np.zeros((1, 6), np.complex64), "'image' is complex64"),
        (np.array([["a"]]), "'image' is <U1"),
    ],
)
def test_examples_that_cannot_be_served_are_refused(example: Array, text: str) -> None:
    """A shape without rows and a type that no request carries are refused."""
    with pytest.raises(UsageError, match=re.escape(text)):
        make_inputs({"image": example}, batch=True)


@pytest.mark.parametrize("name", ["b c", "", "\u00e9"])
def test_names_that_are_no_names_are_refused(name: str) -> None:
    """Malformed names are refused before anything is converted."""
    with pytest.raises(UsageError, match="cannot name an input"):
        make_inputs({name: _IMAGE}, batch=True)


@pytest.mark.parametrize("axes", [{"image": {2: "height"}}, {"picture": {1: "height"}}])
def test_free_axes_must_exist(axes: dict[str, dict[int, str]]) -> None:
    """An axis or input that is not there cannot be free."""
    with pytest.raises(UsageError, match=r"no axis 2|picture"):
        make_inputs({"image": _IMAGE}, batch=True, dynamic_axes=axes)


def test_a_range_of_no_input_is_refused() -> None:
    """A range for something that is no input is a mistake in a name."""
    with pytest.raises(UsageError, match=r"ranges for \['picture'\]"):
        make_inputs({"image": _IMAGE}, batch=True, ranges={"picture": (0, 1)})


def test_batch_is_on_the_axis_that_is_called_so() -> None:
    """A state [layers,batch,hidden] names its batch; axis 0 is not free then."""
    state = np.zeros((1, 2, 3), np.float32)
    (item,) = make_inputs({"h0": state}, batch=True, dynamic_axes={"h0": {1: "batch"}})
    assert (dict(item.axes), item.batch_axis) == ({1: "batch"}, 1)
    with pytest.raises(UsageError, match=r"axes \['0','1'\] are called 'batch'"):
        make_inputs({"h0": state}, batch=True, dynamic_axes={"h0": {0: "batch", 1: "batch"}})
