"""Bodies of infer requests: what they become, and what is refused."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rest.request import Forms, read_infer
from service.rpc.parameters import request_parameters

TENSOR = {"name": "X", "datatype": "INT8", "shape": [2], "data": [1, 2]}
BINARY = {"name": "X", "datatype": "INT8", "shape": [2], "parameters": {"binary_data_size": 2}}


def read(
    fields: dict[str, Any] | str, rest: bytes = b"", length: int | None = None
) -> tuple[ModelInferRequest, Forms]:
    """Read a body: JSON, then binary data. length: the header; by default what is right."""
    head = (fields if isinstance(fields, str) else json.dumps(fields)).encode()
    if length is None and rest:
        length = len(head)
    return read_infer("m", "3", head + rest, length)


def refusal(fields: dict[str, Any] | str, rest: bytes = b"", length: int | None = None) -> str:
    """Return the text with which a body is refused."""
    with pytest.raises(InvalidRequest) as refused:
        read(fields, rest, length)
    return str(refused.value)


@pytest.mark.parametrize("name", [5, 2**63 - 1, 2**63, 2**64 - 1])
def test_sequence_ids_are_integers_of_64_bits_without_sign(name: int) -> None:
    """An id with the highest bit is that of gRPC's signed field with the same bits."""
    request, _ = read({"parameters": {"sequence_id": name}})
    step = request_parameters(request).sequence
    assert step is not None
    assert step.id == name


def test_request_is_the_message_it_stands_for() -> None:
    """Model, version, id, inputs, outputs and parameters come from path and body."""
    request, forms = read(
        {
            "id": "7",
            "model_name": "ignored",
            "parameters": {"priority": 2, "big": 2**64 - 1, "f": 0.5, "s": "x", "b": True},
            "inputs": [TENSOR | {"parameters": {"own": 1}}],
            "outputs": [{"name": "Y", "parameters": {"classification": 3, "binary_data": True}}],
        }
    )
    assert (request.model_name, request.model_version, request.id) == ("m", "3", "7")
    assert request.parameters["priority"].int64_param == 2
    assert request.parameters["big"].uint64_param == 2**64 - 1
    assert request.parameters["f"].double_param == 0.5
    assert request.parameters["s"].string_param == "x"
    assert request.parameters["b"].bool_param is True
    (tensor,) = request.inputs
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("X", "INT8", [2])
    assert tensor.parameters["own"].int64_param == 1
    (output,) = request.outputs
    assert list(output.parameters) == ["classification"]
    assert list(request.raw_input_contents) == [b"\1\2"]
    assert forms.is_binary("Y")
    assert not forms.is_binary("Z")


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_NAMES = st.sampled_from(
    ["id", "inputs", "outputs", "parameters", "name", "shape", "datatype", "data", "binary_data",
     "binary_data_size", "binary_data_output", "classification", "shared_memory_region", "x"]
)  # fmt: skip
_VALUES = _SCALARS | st.sampled_from(["INT8", "BYTES", "FP16", "BF16", "BOOL", "FP33"])
_ANYTHING = st.recursive(
    _VALUES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=5)
)
_TENSORS = st.lists(st.dictionaries(_NAMES, _ANYTHING, max_size=6), max_size=3)


@given(
    fields=st.dictionaries(_NAMES, _ANYTHING) | st.fixed_dictionaries({}, optional={
        "inputs": _TENSORS, "outputs": _TENSORS, "parameters": _ANYTHING, "id": _VALUES,
    }),
    rest=st.binary(max_size=20),
)  # fmt: skip
def test_any_json_is_read_or_refused(fields: dict[str, Any], rest: bytes) -> None:
    """Whatever the members are, nothing but a request or InvalidRequest comes of them."""
    with suppress(InvalidRequest):
        request, _ = read(fields, rest)
        request.SerializeToString()


def test_binary_data_is_taken_in_the_order_of_the_inputs() -> None:
    """Binary and JSON inputs may be mixed; none of the three parameters goes on."""
    second = BINARY | {"name": "B"}
    request, forms = read(
        {
            "inputs": [BINARY, TENSOR | {"name": "J"}, second],
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "Y", "parameters": {"binary_data": False}}],
        },
        b"abcd",
    )
    assert list(request.raw_input_contents) == [b"ab", b"\1\2", b"cd"]
    assert not request.parameters
    assert not request.inputs[0].parameters
    assert not forms.is_binary("Y")
    assert forms.is_binary("Z")


def test_input_in_shared_memory_has_no_data() -> None:
    """It takes no part of the contents."""
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 2}
    entry = {"name": "S", "datatype": "INT8", "shape": [2], "parameters": place}
    request, _ = read({"inputs": [entry, TENSOR]})
    assert list(request.raw_input_contents) == [b"\1\2"]
    assert request.inputs[0].parameters["shared_memory_byte_size"].int64_param == 2


def test_of_two_members_with_one_name_the_last_counts() -> None:
    """As every parser in wide use has it."""
    request, _ = read('{"id": "first", "inputs": [], "id": "last"}')
    assert request.id == "last"


def test_unknown_datatype_is_left_to_the_model() -> None:
    """What the model takes is judged where it is judged for gRPC."""
    request, _ = read({"inputs": [TENSOR | {"datatype": "FP33"}]})
    assert request.inputs[0].datatype == "FP33"


def test_numbers_beyond_json_are_read() -> None:
    """NaN and Infinity as Python writes them."""
    tensor = TENSOR | {"datatype": "FP32", "data": [float("nan"), float("-inf")]}
    request, _ = read({"inputs": [tensor]})
    assert request.raw_input_contents[0] == b"\x00\x00\xc0\x7f\x00\x00\x80\xff"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "the body is not JSON"),
        ("{", "the body is not JSON"),
        ('{"inputs": [}', "column 13"),
        ("[]", "the body is JSON, but no object"),
        ("null", "no object"),
        ('{"inputs": NaN, }', "the body is not JSON"),
        ("[" * 100_000, "limit"),
        ('{"a": NaN, "b": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
        ('{"a": 1e400}', "the body is not JSON: number is infinity"),
        ('{"a": NaN, "b": ' + "9" * 5000 + "}", "the body is not JSON: Exceeds the limit"),
        ('{"id": "\\ud800"}', "no low surrogate"),
        ('{"id": "\\uD800", "a": NaN}', "can't encode character"),
        ('{"a": NaN, "parameters": {"\\udfff": 1}}', "can't encode character"),
        ({"id": 7}, "'id' of the request is a whole number, expected a string"),
        ({"inputs": {}}, "'inputs' of the request is an object, expected an array"),
        ({"inputs": [1]}, "input 0 is a whole number, expected an object"),
        ({"inputs": [{}]}, "input 0 has no 'name'"),
        ({"inputs": [{"name": 1}]}, "'name' of input 0 is a whole number, expected a string"),
        ({"inputs": [{"name": "X"}]}, "input 'X' has no 'shape'"),
        ({"inputs": [{"name": "X", "shape": [1]}]}, "input 'X' has no 'datatype'"),
        ({"inputs": [TENSOR | {"shape": 2}]}, "'shape' of input 'X' is a whole number, expected"),
        ({"inputs": [TENSOR | {"shape": [2.0]}]}, "extent 0 of the shape of input 'X' is a number"),
        ({"inputs": [TENSOR | {"shape": [True]}]}, "extent 0 of the shape of input 'X' is a bool"),
        ({"inputs": [TENSOR | {"shape": [2**63]}]}, "extent 0 of the shape of input 'X' is 92233"),
        ({"inputs": [TENSOR | {"shape": [1] * 65}]}, "input 'X' has 65 dimensions, at most 64"),
        ({"inputs": [TENSOR | {"datatype": 1}]}, "'datatype' of input 'X' is a whole number"),
        ({"inputs": [TENSOR | {"data": None}]},
         "unable to find data for input tensor 'X' for model 'm' in request."),
        ({"inputs": [TENSOR | {"parameters": []}]}, "'parameters' of input 'X' is an array"),
        ({"outputs": [{"name": "Y", "parameters": {"binary_data": 1}}]},
         "'binary_data' of the parameters of output 'Y' is a whole number, expected a boolean"),
        ({"parameters": {"binary_data_output": "yes"}}, "'binary_data_output' of the parameters"),
        ({"parameters": {"x": None}}, "parameter 'x' of the request is null, expected a boolean"),
        ({"parameters": {"x": [1]}}, "parameter 'x' of the request is an array"),
        ('{"parameters": {"n": NaN, "x": -9223372036854775809}}', "a whole number of 64 bits"),
    ],
)  # fmt: skip
def test_malformed_bodies(body: dict[str, Any] | str, text: str) -> None:
    """The error says what is wrong where."""
    assert text in refusal(body)


@pytest.mark.parametrize(
    ("fields", "rest", "length", "text"),
    [
        ({"inputs": [BINARY]}, b"a", None, "binary_data_size of input 'X' is 2, but 1 of 1 bytes"),
        ({"inputs": [BINARY, BINARY]}, b"abc", None, "is 2, but 1 of 3 bytes of binary data"),
        ({"inputs": [BINARY]}, b"", None, "is 2, but 0 of 0 bytes"),
        ({"inputs": [BINARY]}, b"abc", None, "unexpected additional input data for model 'm': 1"),
        ({"inputs": [BINARY]}, b"ab", 10_000, "Inference-Header-Content-Length is 10000, but the"),
        ({"inputs": [BINARY]}, b"ab", 7, "the body is not JSON"),
        ({"inputs": [BINARY | {"data": [1]}]}, b"ab", None, "both 'data' and binary_data_size"),
        ({"inputs": [BINARY | {"parameters": {"binary_data_size": -1}}]}, b"ab", None,
         "binary_data_size of input 'X' is -1"),
        ({"inputs": [BINARY | {"parameters": {"binary_data_size": "2"}}]}, b"ab", None,
         "binary_data_size of input 'X' is a string"),
        ({"inputs": [BINARY | {"parameters": {"binary_data_size": 2**70}}]}, b"ab", None,
         "binary_data_size of input 'X' is"),
    ],
)  # fmt: skip
def test_binary_data_that_does_not_fit(
    fields: dict[str, Any], rest: bytes, length: int | None, text: str
) -> None:
    """Sizes that contradict the body are refused, and no input gets another's bytes."""
    assert text in refusal(fields, rest, length)
