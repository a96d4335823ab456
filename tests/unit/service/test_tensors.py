"""Datatypes and the wire form of their contents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.tensors import (
    BF16,
    BOOL,
    BY_CONFIG,
    BY_ONNX,
    BY_WIRE,
    BYTES,
    DATATYPES,
    FP32,
    INT32,
    Array,
    Datatype,
    MalformedContents,
    Shape,
    Signature,
    TensorSpec,
    WrongElementCount,
    element_count,
    from_raw,
    join_bytes,
    split_bytes,
    to_raw,
)
from tests.support.requests import same

SHAPES = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[Datatype, Array]:
    """Draw a tensor of any datatype."""
    datatype = draw(st.sampled_from(DATATYPES))
    shape: Shape = draw(SHAPES)
    if datatype is not BYTES:
        return datatype, draw(npst.arrays(datatype.numpy, shape))
    count = element_count(shape)
    flat = np.empty(count, dtype=object)
    flat[:] = draw(st.lists(st.binary(max_size=20), min_size=count, max_size=count))
    return datatype, flat.reshape(shape)


@given(tensors())
def test_raw_form_is_reversible(tensor: tuple[Datatype, Array]) -> None:
    """Every tensor of every datatype comes back bit for bit from its raw form."""
    datatype, array = tensor
    raw = to_raw(datatype, array)
    assert same(from_raw(datatype, array.shape, raw), array, datatype)
    if datatype is not BYTES:
        assert len(raw) == array.size * datatype.itemsize


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_bytes_are_lengths_and_contents(elements: list[bytes]) -> None:
    """The raw form of BYTES has a 4-byte little-endian length before each element."""
    raw = join_bytes(elements)
    assert raw == b"".join(len(e).to_bytes(4, "little") + e for e in elements)
    assert split_bytes(raw, len(elements)).tolist() == elements


@given(st.binary(max_size=200), st.integers(0, 10))
def test_arbitrary_bytes_are_refused_or_read_whole(raw: bytes, count: int) -> None:
    """No bytes crash the reader: they are refused, or read so that they can be written again."""
    try:
        elements = split_bytes(raw, count)
    except MalformedContents:
        return
    assert join_bytes(elements.tolist()) == raw


@pytest.mark.parametrize(("count", "got"), [(1, 3), (5, 3), (0, 3)])
def test_wrong_number_of_elements_is_counted(count: int, got: int) -> None:
    """Too few and too many elements are told with both numbers."""
    with pytest.raises(WrongElementCount) as caught:
        split_bytes(join_bytes([b"a", b"", b"ccc"]), count)
    assert (caught.value.expected, caught.value.got) == (count, got)


def test_text_is_sent_as_utf8() -> None:
    """Elements that are str, as ONNX Runtime gives them, leave as UTF-8."""
    assert join_bytes(["é"]) == b"\x02\0\0\0\xc3\xa9"


def test_numbers_are_views_and_cannot_be_written() -> None:
    """Numeric contents are not copied, and nobody can change the message through them."""
    array = from_raw(FP32, (2,), bytes(8))
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_any_byte_but_zero_is_true() -> None:
    """BOOL contents other than 0 are true, and the runtime sees 0 and 1 only."""
    array = from_raw(BOOL, (4,), b"\x00\x01\x02\xff")
    assert array.tolist() == [False, True, True, True]
    assert to_raw(BOOL, array) == b"\x00\x01\x01\x01"


@pytest.mark.parametrize("size", [0, 7, 9, 16])
def test_wrong_size_is_refused(size: int) -> None:
    """Contents that are not exactly the elements of the shape are refused with both sizes."""
    with pytest.raises(MalformedContents, match=f"Expected 8, got {size}"):
        from_raw(INT32, (2,), bytes(size))


def test_product_of_extents_does_not_overflow() -> None:
    """The element count of an enormous shape is exact."""
    assert element_count((1 << 40, 1 << 40)) == 1 << 80
    assert element_count(()) == 1
    assert element_count((3, 0)) == 0


@pytest.mark.parametrize(
    ("spec", "shape", "fits"),
    [
        ((-1, 3), (5, 3), True),
        ((-1, 3), (0, 3), True),
        ((-1, 3), (5, 4), False),
        ((-1, 3), (-1, 3), False),
        ((-1, -1), (-1, -1), False),
        ((2,), (2,), True),
        ((2,), (-1,), False),
        ((2,), (2, 1), False),
        ((), (), True),
        ((), (1,), False),
    ],
)
def test_spec_admits(spec: Shape, shape: Shape, fits: bool) -> None:  # noqa: FBT001  a column
    """A shape fits if its rank and every fixed extent agree and none is negative."""
    assert TensorSpec("X", FP32, spec).admits(shape) is fits


def test_every_datatype_has_one_name_in_each_world() -> None:
    """No two datatypes share a name, and all 14 of the protocol are there."""
    assert len(BY_WIRE) == len(BY_CONFIG) == len(BY_ONNX) == len(DATATYPES) == 14
    assert BY_CONFIG["TYPE_STRING"] is BYTES
    assert BY_ONNX["tensor(bfloat16)"] is BF16
    assert str(BF16) == "BF16"


def test_signature_finds_by_name() -> None:
    """Inputs and outputs are found by name, and are not confused."""
    x, y = TensorSpec("X", FP32, (1,)), TensorSpec("Y", FP32, (1,))
    signature = Signature((x,), (y,), batched=False)
    assert signature.input("X") is x
    assert signature.output("Y") is y
    assert signature.input("Y") is None
    assert signature.output("X") is None
