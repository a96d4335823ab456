"""Free axes from samples: what moves is free, what moves together is one axis."""

import numpy as np
import pytest

from exporter.axes import as_samples, infer_axes
from exporter.errors import UsageError
from service.tensors import Tensors


def _sample(length: int, width: int = 4, rows: int = 2) -> Tensors:
    return {
        "tokens": np.zeros((rows, length), np.int64),
        "mask": np.zeros((rows, length), np.bool_),
        "extra": np.zeros((rows, width, 3), np.float32),
    }


def test_an_extent_that_differs_is_free() -> None:
    """Two inputs whose extents move together share an axis; what stands still is fixed."""
    assert infer_axes([_sample(5), _sample(7)], batch=True) == {
        "tokens": {1: "tokens_1"},
        "mask": {1: "tokens_1"},
    }


def test_axes_that_move_apart_are_two() -> None:
    """Extents that differ from each other in one of the samples are axes of their own."""
    free = infer_axes([_sample(5, 4), _sample(7, 7)], batch=True)
    assert free["tokens"] == {1: "tokens_1"}
    assert free["extra"] == {1: "extra_1"}


def test_the_batch_is_no_axis_of_these() -> None:
    """Other numbers of rows say nothing new where axis 0 is the batch, and are an axis else."""
    samples = [_sample(5, rows=2), _sample(5, rows=3)]
    assert infer_axes(samples, batch=True) == {}
    assert infer_axes(samples, batch=False)["tokens"] == {0: "tokens_0"}


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"tokens": np.zeros((2, 5), np.int64)}, "has the inputs"),
        ({**_sample(5), "mask": np.zeros((2, 5), np.int8)}, r"'mask' is int8\[2,5\]"),
        ({**_sample(5), "mask": np.zeros(2, np.bool_)}, r"'mask' is bool\[2\]"),
    ],
)
def test_samples_of_other_inputs_are_refused(other: Tensors, says: str) -> None:
    """Every sample has all inputs, of the same types and numbers of axes."""
    with pytest.raises(UsageError, match=says):
        infer_axes([_sample(5), other], batch=True)


def test_a_sample_is_arrays_by_name() -> None:
    """Anything else is refused by its number and type."""
    with pytest.raises(UsageError, match="sample 1 is a list"):
        as_samples([[1, 2]])  # type: ignore[list-item]
