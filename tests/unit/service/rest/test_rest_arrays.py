"""Large arrays in JSON are read piece by piece, and nobody can tell."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.rest.arrays import PIECE, cut_arrays
from service.rest.parse import parse_object
from service.rest.request import read_infer
from service.rest.values import json_of
from service.tensors import FP32, Array

WHOLE = 1 << 40  # pieces of so many bytes cut nothing


def read(body: bytes, piece: int) -> object:
    """Return everything that comes of a body, as a request or as the text of its refusal."""
    try:
        request, forms = read_infer("m", "", body, None, piece)
    except InvalidRequest as error:
        return str(error)
    return request.SerializeToString(deterministic=True), forms


def body_of(data: object, shape: tuple[int, ...], datatype: str = "FP32") -> bytes:
    """Return a body with one input."""
    entry = {"name": "X", "datatype": datatype, "shape": shape, "data": data}
    return json.dumps({"id": "7", "inputs": [entry]}).encode()


def nested(array: Array, depth: int) -> Any:
    """Return the elements, nested as the array is or flat."""
    return (array if depth else array.reshape(-1)).tolist()


@pytest.mark.parametrize(
    "shape", [(40_000,), (200, 200), (1, 2, 20_000), (1, 1, 40_000), (100, 1, 20, 20)]
)
@pytest.mark.parametrize("depth", [0, 1])
def test_large_arrays_are_cut_out_and_mean_the_same(shape: tuple[int, ...], depth: int) -> None:
    """Flat and nested, also in arrays of one; what is left for the parser is short."""
    array = np.linspace(-1e9, 1e9, 40_000, dtype=np.float32).reshape(shape)
    body = body_of(nested(array, depth), shape)
    text, arrays = cut_arrays(body, len(body), PIECE)
    ((key, cut),) = arrays.items()
    (entry,) = parse_object(text)["inputs"]
    assert entry == {"name": "X", "datatype": "FP32", "shape": list(shape), "data": key}
    assert cut.raw("X", FP32, shape) == array.tobytes()
    request, _ = read_infer("m", "", body, None)
    assert list(request.raw_input_contents) == [array.tobytes()]


def test_the_element_that_is_wrong_is_told_by_its_place_in_all() -> None:
    """And not by its place in the piece that it is in."""
    data = [1] * 200_000
    data[150_000] = 300
    with pytest.raises(InvalidRequest, match="element 150000 is 300, INT8 holds -128 to 127"):
        read_infer("m", "", body_of(data, (200_000,), "INT8"), None)


def test_infinities_are_read_and_written_in_pieces() -> None:
    """Tokens that JSON has not are taken in some pieces, and written in some."""
    array = np.arange(70_000, dtype=np.float32)
    array[[0, 20_000, 69_999]] = np.inf, np.nan, -np.inf
    text = json_of("X", FP32, array.shape, array.tobytes())
    assert json.dumps(array.tolist()).replace(" ", "") == text.decode()
    request, _ = read_infer("m", "", body_of(array.tolist(), array.shape), None)
    (raw,) = request.raw_input_contents
    assert np.array_equal(np.frombuffer(raw, np.float32), array, equal_nan=True)


@pytest.mark.parametrize("piece", [1, 3, 5])
@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ("[1,2,3,4,5,6,7,8]", "[8]"),
        ("[1,2,3,4,5,6,7,8,]", "[8]"),
        ("[1,2,3,4,,5,6,7,8]", "[8]"),
        ("[,1,2,3,4,5,6,7,8]", "[8]"),
        ("[1,2,3,4,5,6,7,true]", "[8]"),
        ("[1,2,3,4 5,6,7,8]", "[8]"),
        ("[1,2,3,4],5,[6,7,8]", "[8]"),
        ("[1,2,3,4,[5],6,7,8]", "[8]"),
        ("[[1,2],[3,4],[5,6],[7,8]]", "[4,2]"),
        ("[[1,2],[3,4],[5,6],[7,8]]", "[3,2]"),
        ("[[1,2],[3,4],[5,6],[7,8]]", "[8,1]"),
        ("[[1,2],[3,4],[5,6],[7,8]]", "[8]"),
        ("[[1,2],[3,4],[5,6],[7,8]]", "[1,4,2]"),
        ("[[1,2],[3,4],[5,6],[7,8],]", "[4,2]"),
        ("[[1,2],[3,4],[5,6],7,[8]]", "[4,2]"),
        ("[[1,2],[3,4],[5,6,7],[8]]", "[4,2]"),
        ("[[1,2],[3,4],[[5,6]],[7,8]]", "[4,2]"),
        ("[ [1, 2], [3, 4], [5, 6], [7, 8] ]", "[4,2]"),
        ("[[1,2,3,4,5,6,7,8]]", "[1,8]"),
        ("[[1,2,3,4,5,6,7,8]]", "[1,7]"),
        ("[[1,2,3,4],[5,6,7,8]]", "[1,8]"),
        ("[[[1,2,3,4,5,6,7,8]]]", "[1,1]"),
        ("[[[1,2],[3,4]],[[5,6],[7,8]]]", "[2,2,2]"),
        ("[[[[1,2],[3,4]],[[5,6],[7,8]]]]", "[1,2,2,2]"),
        ('[1,2,3,4,5,6,7,"NaN"]', "[8]"),
        ("[1,2,3,4,5,6,7,NaN]", "[8]"),
        ("[1,2,3,4,5,6,7,1e400]", "[8]"),
        ("[1,2,3,4,5,6,7,8", "[8]"),
        ("[1,2,3,4,5,6,7,8]]", "[8]"),
    ],
)
def test_what_an_array_may_look_like(data: str, shape: str, piece: int) -> None:
    """Right or wrong, in pieces it is what it is as a whole."""
    for form in (
        '{"inputs":[{"name":"X","datatype":"FP32","shape":%s,"data":%s}]}',
        '{"inputs":[{"name":"X","datatype":"FP32","shape":%s,"data" : %s,"x":"]"}]}',
    ):
        body = (form % (shape, data)).encode()
        assert read(body, piece) == read(body, WHOLE)


@pytest.mark.parametrize(
    "member",
    [
        '"data":[1,2,3,4,5,6,7,8],"data":[1,2]',
        '"data":[1,2],"data":[1,2,3,4,5,6,7,8]',
        '"data":[1,2],"parameters":{"data":[1,2,3,4,5,6,7,8]}',
        '"data":[1,2],"parameters":{"\\"data":[1,2,3,4,5,6,7,8]}',
        '"data":[1,2],"x\\\\"data":[1,2,3,4,5,6,7,8]',
        '"data":[1,2],"x":"\\"data\\":[1,2,3,4,5,6,7,8]"',
        '"data":[1,2,3,4,5,6,7,8],"parameters":{"binary_data_size":2}',
        '"data":[1,2],"more":{"data":[1,2,3,4,5,6,7,8]}',
    ],
)
def test_where_an_array_may_stand(member: str) -> None:
    """Twice, elsewhere, or in a text: it counts where the parser has it count."""
    body = b'{"inputs":[{"name":"X","datatype":"INT8","shape":[2],%b}]}' % member.encode()
    assert read(body, 3) == read(body, WHOLE)


@given(
    data=st.lists(st.lists(st.integers(-9, 9), min_size=2, max_size=2), min_size=2),
    piece=st.integers(1, 9),
    at=st.integers(0, 200),
    instead=st.sampled_from(["", *'[]{},:"1 ']),
)
def test_a_slip_is_told_in_the_same_words(
    data: list[list[int]], piece: int, at: int, instead: str
) -> None:
    """Whatever character is missing, or another one, or none."""
    text = body_of(data, (len(data), 2), "INT8").decode()
    body = (text[:at] + instead + text[at + 1 :]).encode()
    assert read(body, piece) == read(body, WHOLE)
