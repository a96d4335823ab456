"""Batches are assembled and taken apart without mixing rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.errors import BackendContractError
from service.inference.batch import join_inputs, split_batch
from service.tensors import Tensors

DTYPES = st.sampled_from([np.float32, np.int64, np.bool_, np.float16, np.uint16])


@st.composite
def members(draw: st.DrawFn) -> list[Tensors]:
    """Draw the inputs of requests that may share a batch."""
    rows = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    inner = {
        name: (draw(DTYPES), draw(npst.array_shapes(min_dims=0, max_dims=3, max_side=3)))
        for name in draw(st.sampled_from([("X",), ("A", "B"), ("A", "B", "C")]))
    }
    return [
        {name: draw(npst.arrays(dtype, (n, *shape))) for name, (dtype, shape) in inner.items()}
        for n in rows
    ]


@given(members())
def test_split_after_join_is_the_identity(requests: list[Tensors]) -> None:
    """Every request gets back exactly what it gave, bit for bit."""
    rows = [next(iter(request.values())).shape[0] for request in requests]
    parts = split_batch(join_inputs(requests), rows)
    assert len(parts) == len(requests)
    for part, request in zip(parts, requests, strict=True):
        assert list(part) == list(request)
        for name, array in request.items():
            assert part[name].dtype == array.dtype
            assert part[name].shape == array.shape
            assert part[name].tobytes() == array.tobytes()


def test_single_request_is_not_copied() -> None:
    """The inputs of a lone request go to the model as they came."""
    inputs = {"X": np.ones((3, 2), np.float32)}
    assert join_inputs([inputs]) is inputs


def test_parts_are_views() -> None:
    """Splitting copies nothing."""
    whole = np.arange(6.0).reshape(3, 2)
    first, second = split_batch({"Y": whole}, [1, 2])
    assert np.shares_memory(first["Y"], whole)
    assert np.shares_memory(second["Y"], whole)


def test_bytes_elements_survive() -> None:
    """Object arrays of texts are joined and split like any other."""
    texts = [np.array([["a"], ["b"]], dtype=object), np.array([["c"]], dtype=object)]
    parts = split_batch(join_inputs([{"X": text} for text in texts]), [2, 1])
    assert [part["X"].tolist() for part in parts] == [[["a"], ["b"]], [["c"]]]


@pytest.mark.parametrize("shape", [(2, 4), (4, 4), (), (0, 4)])
def test_output_with_the_wrong_rows_is_refused(shape: tuple[int, ...]) -> None:
    """An output that does not have a row for each row of the batch breaks the contract."""
    with pytest.raises(BackendContractError, match=r"output 'Y' has shape .* a batch of 3 rows"):
        split_batch({"Y": np.zeros(shape)}, [1, 2])
