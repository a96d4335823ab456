"""The largest elements as texts, as Triton writes them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.errors import InvalidRequest
from service.rpc.classification import check_classifiable, classify
from service.tensors import BF16, BOOL, BYTES, DATATYPES, FP16, Array, Datatype

CLASSIFIABLE = [d for d in DATATYPES if d not in (BYTES, BOOL, FP16, BF16)]


def texts(array: Array, count: int, *labels: str, batched: bool = True) -> list[object]:
    """Return the texts of an array's rows."""
    found: list[object] = classify(array, count, labels, batched=batched).tolist()
    return found


def test_floats_have_six_decimals_and_integers_none() -> None:
    """A value is written as in C: %f, or a plain integer; then index and label, if it has one."""
    scores = np.array([[0.25, 1e-7, 1234567.0]], np.float32)
    assert texts(scores, 2, "a") == [[b"1234567.000000:2", b"0.250000:0:a"]]
    assert texts(np.array([[3, -7]], np.int8), 2, "a", "b") == [[b"3:0:a", b"-7:1:b"]]
    assert texts(np.array([[1 << 63]], np.uint64), 1) == [[b"9223372036854775808:0"]]


def test_rows_are_looked_at_apart() -> None:
    """Each row of a batch has its own classes; without a batch all elements are one row."""
    scores = np.array([[[1.0, 2.0], [3.0, 0.0]], [[9.0, 8.0], [7.0, 6.0]]])
    assert texts(scores, 1) == [[b"3.000000:2"], [b"9.000000:0"]]
    assert texts(scores, 1, batched=False) == [b"9.000000:4"]


def test_more_classes_than_elements_give_all() -> None:
    """A row has at most as many texts as elements, however many are asked for."""
    assert len(texts(np.zeros((1, 3)), 1 << 62)[0]) == 3  # type: ignore[arg-type]
    assert texts(np.array(5.0), 4, batched=False) == [b"5.000000:0"]
    assert classify(np.zeros((2, 0)), 3, (), batched=True).shape == (2, 0)
    assert classify(np.zeros((0, 3)), 3, (), batched=True).shape == (0, 3)


def test_equal_elements_keep_their_order() -> None:
    """Of equal elements the first is the better one, also at the border."""
    scores = np.array([[1.0, 2.0, 2.0, 0.0, 2.0]])
    assert texts(scores, 2) == [[b"2.000000:1", b"2.000000:2"]]
    assert texts(scores, 4)[0][2:] == [b"2.000000:4", b"1.000000:0"]  # type: ignore[index]


def test_nan_and_infinities_have_a_place() -> None:
    """NaN is never the best while there is a number; nothing is refused."""
    scores = np.array([[np.nan, -np.inf, np.inf, 0.0]])
    assert texts(scores, 2) == [[b"inf:2", b"0.000000:3"]]
    assert sorted(texts(scores, 4)[0][2:]) == [b"-inf:1", b"nan:0"]  # type: ignore[index]


@given(st.data(), st.sampled_from(CLASSIFIABLE))
def test_classes_are_what_sorting_finds(data: st.DataObject, datatype: Datatype) -> None:
    """The indices are the first ones of a stable sort in descending order."""
    shape = npst.array_shapes(min_dims=2, max_dims=2, max_side=7)
    elements = {"allow_nan": False} if datatype.numpy.kind == "f" else None
    scores = data.draw(npst.arrays(datatype.numpy, shape, elements=elements))
    count = data.draw(st.integers(1, 9))
    for row, values in zip(texts(scores, count), scores.tolist(), strict=True):
        best = sorted(range(len(values)), key=lambda index: -values[index])[:count]
        assert [int(text.split(b":")[1]) for text in row] == best  # type: ignore[attr-defined]


def test_large_tensor_is_refused() -> None:
    """A million elements are looked through, more are not."""
    assert classify(np.zeros((1, 1_000_000), np.int8), 1, (), batched=True).shape == (1, 1)
    with pytest.raises(InvalidRequest, match="classification output tensor too large: 1000001"):
        classify(np.zeros((1, 1_000_001), np.int8), 1, (), batched=True)


@pytest.mark.parametrize("datatype", [BYTES, BOOL, FP16, BF16], ids=str)
def test_some_types_have_no_classes(datatype: Datatype) -> None:
    """Strings, truth values and half floats are refused by name."""
    with pytest.raises(InvalidRequest, match=f"due to unsupported type '{datatype}'"):
        check_classifiable("Y", datatype)
    for other in CLASSIFIABLE:
        check_classifiable("Y", other)
