"""Contents as JSON and back: exact, or refused with the place."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.rest.values import json_of, raw_of
from service.tensors import (
    BF16,
    BOOL,
    BYTES,
    DATATYPES,
    FP16,
    FP32,
    FP64,
    INT8,
    INT32,
    INT64,
    UINT8,
    UINT64,
    Array,
    Datatype,
    from_raw,
    to_raw,
)  # fmt: skip

INTEGERS = [d for d in DATATYPES if d.numpy.kind in "iu" and d is not BF16]
FLOATS = [FP16, FP32, FP64]


def refusal(datatype: Datatype, data: object, shape: tuple[int, ...] = (2,)) -> str:
    """Return the text with which contents are refused."""
    with pytest.raises(InvalidRequest) as refused:
        raw_of("X", datatype, shape, data)
    return str(refused.value)


def array_of(datatype: Datatype, data: list[Any]) -> Array:
    """Return flat JSON data as a tensor."""
    return from_raw(datatype, (len(data),), raw_of("X", datatype, (len(data),), data))


@pytest.mark.parametrize("datatype", INTEGERS, ids=str)
@given(data=st.data())
def test_integers_round_trip(datatype: Datatype, data: st.DataObject) -> None:
    """Every integer of a type is written in full and read as itself."""
    limits = np.iinfo(datatype.numpy)
    numbers = data.draw(st.lists(st.integers(int(limits.min), int(limits.max))))
    raw = raw_of("X", datatype, (len(numbers),), numbers)
    assert json.loads(json_of("X", datatype, (len(numbers),), raw)) == numbers


@pytest.mark.parametrize("datatype", FLOATS, ids=str)
@given(data=st.data())
def test_floats_round_trip(datatype: Datatype, data: st.DataObject) -> None:
    """Any bits of a float that is a number come back as they were; NaN comes back as NaN."""
    width = datatype.itemsize * 8
    bits = data.draw(st.lists(st.integers(0, 2**width - 1)))
    array = np.array(bits, f"<u{datatype.itemsize}").view(datatype.numpy)
    text = json_of("X", datatype, array.shape, array.tobytes())
    back = array_of(datatype, json.loads(text))
    assert back[~np.isnan(array)].tobytes() == array[~np.isnan(array)].tobytes()
    assert np.isnan(back[np.isnan(array)]).all()


def test_every_bf16_round_trips() -> None:
    """All 65,536 of them but for the payloads of NaN."""
    bits = np.arange(1 << 16, dtype=np.uint16)
    data = json.loads(json_of("X", BF16, bits.shape, bits.tobytes()))
    back = array_of(BF16, data)
    is_nan = ((bits & 0x7F80) == 0x7F80) & ((bits & 0x7F) != 0)
    assert (back[~is_nan] == bits[~is_nan]).all()
    assert (back[is_nan] == 0x7FC0).all()


@given(st.floats(-1e30, 1e30))
def test_bf16_is_the_nearest_one(number: float) -> None:
    """A number becomes the closest BF16, the even one of two."""
    (got,) = array_of(BF16, [number]).tolist()
    below, value, above = (
        float(np.array([pattern << 16], np.uint32).view(np.float32)[0])
        for pattern in (got - 1 if got & 0x7FFF else got, got, got + 1)
    )
    distance = abs(value - number)
    for other in (below, above):
        assert distance < abs(other - number) or (
            distance == abs(other - number) and (value == other or got % 2 == 0)
        )


def test_double_rounding_is_avoided() -> None:
    """A number just above the middle of two BF16 is not first rounded down to the middle."""
    middle = 1 + 2**-8  # between 1 and 1 + 2**-7; even is 1
    assert array_of(BF16, [middle, middle + 2**-40]).tolist() == [0x3F80, 0x3F81]


@given(st.lists(st.text()))
def test_texts_round_trip(texts: list[str]) -> None:
    """Any text is BYTES in UTF-8, and comes back."""
    raw = raw_of("X", BYTES, (len(texts),), texts)
    assert raw == to_raw(BYTES, np.array([t.encode() for t in texts] or [], object))
    assert json.loads(json_of("X", BYTES, (len(texts),), raw)) == texts


def test_numbers_without_literals_are_tokens() -> None:
    """NaN and the infinities are written as Python and Triton write them."""
    array = np.array([np.nan, 1.5, np.inf, -np.inf], np.float32)
    assert json_of("X", FP32, (4,), array.tobytes()) == b"[NaN,1.5,Infinity,-Infinity]"


def test_numbers_without_literals_may_be_strings() -> None:
    """Who cannot write NaN as a number may write it as a string."""
    got = array_of(FP32, ["NaN", 1, "Infinity", "-Infinity"])
    assert math.isnan(got[0])
    assert got[1:].tolist() == [1.0, math.inf, -math.inf]


def test_floats_have_no_more_digits_than_they_need() -> None:
    """0.1 stays 0.1, in every width."""
    for datatype in (FP32, FP64):
        assert json_of("X", datatype, (1,), np.array([0.1], datatype.numpy).tobytes()) == b"[0.1]"


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2], [3, 4]]], ids=["flat", "nested"])
def test_flat_and_nested_are_the_same(data: list[Any]) -> None:
    """Data may be nested as its shape says."""
    assert raw_of("X", INT8, (2, 2), data) == b"\1\2\3\4"


def test_scalar_needs_no_array() -> None:
    """A tensor without axes may be sent as its value."""
    assert raw_of("X", INT8, (), 5) == raw_of("X", INT8, (), [5]) == b"\5"


@pytest.mark.parametrize(
    ("datatype", "data", "text"),
    [
        (INT8, [0, 128], "input 'X': element 1 is 128, INT8 holds -128 to 127"),
        (UINT8, [0, -1], "element 1 is -1, UINT8 holds 0 to 255"),
        (INT64, [0, 2**63], "element 1 is 9223372036854775808, INT64 holds"),
        (UINT64, [2**64, 0], "element 0 is 18446744073709551616, UINT64 holds 0 to"),
        (INT32, [1, 2.0], "element 1 is a number with a fraction or exponent, INT32 takes whole"),
        (INT32, [True, 1], "element 0 is a boolean, INT32 takes whole numbers"),
        (INT32, ["1", 1], "element 0 is a string, INT32 takes whole numbers"),
        (INT32, [1, None], "element 1 is null"),
        (INT32, [1, {}], "element 1 is an object"),
        (BOOL, [True, 1], "element 1 is a whole number, BOOL takes true or false"),
        (FP32, [1.0, True], "element 1 is a boolean, FP32 takes numbers"),
        (FP32, [1.0, "1.0"], 'element 1 is the string "1.0", FP32 takes numbers'),
        (FP32, [1.0, 1e39], "element 1 is 1e+39, FP32 holds no number that large"),
        (FP16, [65520.0, 1.0], "element 0 is 65520.0, FP16 holds no number that large"),
        (BF16, [0, 3.4e38], "element 1 is 3.4e+38, BF16 holds no number that large"),
        (FP64, [0, 10**400], "element 1 is 1000"),
        (BYTES, ["a", 1], "element 1 is a whole number, BYTES takes strings"),
        (BYTES, ["a", "\ud800"], "half of a surrogate pair"),
        (INT32, {"0": 1}, "'data' of input 'X' is an object, expected an array"),
        (INT32, 5, "'data' of input 'X' is a whole number, expected an array"),
    ],
)  # fmt: skip
def test_what_is_refused(datatype: Datatype, data: object, text: str) -> None:
    """The error names the input and the first element that is wrong."""
    assert text in refusal(datatype, data)


@pytest.mark.parametrize(
    ("shape", "data", "text"),
    [
        ((2, 2), [[1, 2], [3]], "ragged: at depth 1, entry 1 has 1 elements, the first one 2"),
        ((2, 2), [[1, 2], 3], "ragged: at depth 1, entry 1 has a whole number"),
        ((2, 3), [[1, 2], [3, 4], [5, 6]], "nested as [3,2], its shape is [2,3]"),
        ((4,), [[1, 2], [3, 4]], "nested as [2,2], its shape is [4]"),
        ((2,), [[[[]]]], "nested as [1,1,1,0], its shape is [2]"),
        ((2,), [1, [2]], "element 1 is an array"),
    ],
)
def test_wrong_nesting_is_refused(shape: tuple[int, ...], data: object, text: str) -> None:
    """Data that is nested otherwise than its shape says is a mistake, not a guess."""
    assert text in refusal(INT32, data, shape)


def test_bytes_that_are_no_text_are_refused() -> None:
    """JSON has no form for them; the error says how to get them."""
    raw = to_raw(BYTES, np.array([b"fine", b"\xff"], object))
    with pytest.raises(InvalidRequest, match=r"output 'Y' .* \(element 1\).*binary_data"):
        json_of("Y", BYTES, (2,), raw)
