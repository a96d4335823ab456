"""Requests of the client: what protobuf reads in their bytes."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.client.requests import Encoder, encode_parameters
from service.pb import grpc_service_pb2 as pb
from service.rpc.plan import cut_message
from service.tensors import BF16, BYTES, DATATYPES, Array

_NUMERIC = [datatype.numpy for datatype in DATATYPES if datatype not in (BF16, BYTES)]


def read(value: Any, *, bf16: frozenset[str] = frozenset()) -> tuple[str, list[int], bytes]:
    """Encode a request with one input and return its datatype, shape and raw contents."""
    message = Encoder().encode("m", "", {"X": value}, (), bf16).message()
    request = pb.ModelInferRequest.FromString(message)
    (tensor,), (raw,) = request.inputs, request.raw_input_contents
    return tensor.datatype, list(tensor.shape), raw


@given(st.sampled_from(_NUMERIC).flatmap(lambda dtype: arrays.arrays(
    st.sampled_from([dtype, dtype.newbyteorder(">")]),
    arrays.array_shapes(min_dims=0, min_side=0, max_side=4),
)))  # fmt: skip
def test_contents_are_little_endian_and_in_rows(array: Array) -> None:
    """Whatever order an array has in memory, its contents leave in the order of the protocol."""
    for view in (array, array.T, array[..., ::2] if array.ndim else array):
        datatype, shape, raw = read(view)
        expected = np.ascontiguousarray(view.astype(view.dtype.newbyteorder("<")))
        assert (datatype, shape, raw) == (datatype, list(view.shape), expected.tobytes())


@pytest.mark.parametrize(
    ("value", "datatype", "shape", "raw"),
    [
        (np.float32(1), "FP32", [], b"\0\0\x80\x3f"),
        (7, "INT64", [], b"\7" + bytes(7)),
        ([[True, False]], "BOOL", [1, 2], b"\1\0"),
        (np.zeros((0, 3), np.int8), "INT8", [0, 3], b""),
        (np.array([b"ab", ""], object), "BYTES", [2], b"\2\0\0\0ab\0\0\0\0"),
        (np.array(["ä"]), "BYTES", [1], b"\2\0\0\0\xc3\xa4"),
        ("text", "BYTES", [], b"\4\0\0\0text"),
        (np.zeros((0,), object), "BYTES", [0], b""),
        (np.array([1.0], ml_dtypes.bfloat16), "BF16", [1], b"\x80\x3f"),
        (np.array([1], np.uint16), "UINT16", [1], b"\1\0"),
        (np.array([1.0], np.float16), "FP16", [1], b"\0\x3c"),
    ],
)  # fmt: skip
def test_each_kind_of_value(value: Any, datatype: str, shape: list[int], raw: bytes) -> None:
    """Scalars, lists, texts, empty arrays and the types of 16 bits leave as the protocol has it."""
    assert read(value) == (datatype, shape, raw)


def test_uint16_is_bf16_where_the_model_has_it() -> None:
    """An array of uint16 for an input of BF16 leaves as BF16, its bits unchanged."""
    assert read(np.array([0x3F80], np.uint16), bf16=frozenset("X")) == ("BF16", [1], b"\x80\x3f")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (np.ones(1, complex), TypeError, "input 'X' is of type complex128"),
        (np.zeros(1, "M8[s]"), TypeError, "input 'X' is of type datetime64"),
        (np.array(["a", 5], object), TypeError, "input 'X' holds a int, expected bytes or str"),
        (np.array([None]), TypeError, "input 'X' holds a NoneType"),
        ([[1, 2], [3]], ValueError, "input 'X' is no array: "),
    ],
)  # fmt: skip
def test_what_no_datatype_carries_is_refused(value: Any, error: type[Exception], text: str) -> None:
    """What cannot be sent is refused by the name of the input before anything is sent."""
    with pytest.raises(error, match=text):
        read(value)


def test_inputs_that_are_none_are_left_out() -> None:
    """An optional input may be given as None."""
    message = Encoder().encode("m", "", {"X": None, "Y": 1.0}).message()
    request = pb.ModelInferRequest.FromString(message)
    assert [each.name for each in request.inputs] == ["Y"]
    assert len(request.raw_input_contents) == 1


def test_a_remembered_shape_changes_nothing() -> None:
    """The second request of a shape has its own id, parameters and contents, as the first had."""
    encoder = Encoder()
    messages = []
    for number in range(2):
        encoded = encoder.encode("m", "3", {"X": np.full((1, 2), number, np.int32)}, ["Y"])
        parameters = encode_parameters({"n": number})
        messages.append(pb.ModelInferRequest.FromString(encoded.message(str(number), parameters)))
    for number, message in enumerate(messages):
        expected = pb.ModelInferRequest(model_name="m", model_version="3", id=str(number))
        expected.parameters["n"].int64_param = number
        expected.inputs.add(name="X", datatype="INT32", shape=[1, 2])
        expected.outputs.add(name="Y")
        expected.raw_input_contents.append(np.full(2, number, np.int32).tobytes())
        assert message == expected


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"X": np.zeros((1, 2), np.int32)}, {"X": np.zeros((2, 1), np.int32)}),
        ({"X": np.zeros(2, np.int32)}, {"X": np.zeros(2, np.uint32)}),
        ({"X": np.zeros(2)}, {"Z": np.zeros(2)}),
    ],
    ids=["shape", "type", "name"],
)  # fmt: skip
def test_shapes_are_not_mixed_up(first: dict[str, Array], second: dict[str, Array]) -> None:
    """Requests that differ in shape, type or name do not get each other's description."""
    encoder = Encoder()
    encoder.encode("m", "", first)
    alone = Encoder().encode("m", "", second).message()
    assert encoder.encode("m", "", second).message() == alone


def test_more_shapes_than_are_remembered() -> None:
    """A thousand shapes in turn are all described rightly."""
    encoder = Encoder()
    for _ in range(2):
        for size in range(500):
            message = encoder.encode("m", "", {"X": np.zeros(size, np.int8)}).message()
            assert list(pb.ModelInferRequest.FromString(message).inputs[0].shape) == [size]


def test_fields_are_in_the_order_that_the_server_recognises() -> None:
    """The server knows the next request of a shape by its head, which it finds in this one."""
    encoder = Encoder()
    encoded = encoder.encode("m", "1", {"X": np.zeros(200, np.int64)}, ["Y"])
    cuts = [cut_message(encoded.message(name)) for name in ("", "a", "another")]
    assert all(cut is not None for cut in cuts)
    assert len({cut.head for cut in cuts if cut}) == 1
    assert [cut.request_id for cut in cuts if cut] == [b"", b"a", b"another"]


def test_parameters_have_their_kinds() -> None:
    """Each type of Python, and of numpy, becomes the field that the protocol has for it."""
    values: Any = {"b": True, "i": -5, "f": 0.5, "s": "x", "nb": np.True_, "ni": np.int32(2)}
    request = pb.ModelInferRequest.FromString(encode_parameters(values))
    assert {
        key: (kind, getattr(value, kind))
        for key, value in request.parameters.items()
        if (kind := value.WhichOneof("parameter_choice"))
    } == {
        "b": ("bool_param", True), "i": ("int64_param", -5), "f": ("double_param", 0.5),
        "s": ("string_param", "x"), "nb": ("bool_param", True), "ni": ("int64_param", 2),
    }  # fmt: skip
    with pytest.raises(TypeError, match="parameter 'x' is of type bytes, expected bool, int"):
        encode_parameters({"x": b"bytes"})  # type: ignore[dict-item]
