"""Responses of a server: what the client makes of their bytes."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.client import MalformedAnswer
from service.client.responses import Decoder
from service.pb import grpc_service_pb2 as pb
from service.tensors import BF16, BYTES, DATATYPES, FP16, Array, Datatype, to_raw
from tests.support.models import sample


def response(**outputs: tuple[Datatype, Array]) -> pb.ModelInferResponse:
    """Return a response with raw contents."""
    message = pb.ModelInferResponse(model_name="m", model_version="1", id="7")
    for name, (datatype, array) in outputs.items():
        message.outputs.add(name=name, datatype=datatype.wire, shape=array.shape)
        message.raw_output_contents.append(to_raw(datatype, array))
    return message


@pytest.mark.parametrize("datatype", DATATYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)], ids=str)
def test_raw_contents_become_arrays_of_their_own(
    datatype: Datatype, shape: tuple[int, ...]
) -> None:
    """Arrays have type, shape and values of the output; they are writable and aligned."""
    array = sample(np.random.default_rng(3), datatype, shape)
    data = response(odd=(DATATYPES[1], np.zeros(3, np.uint8)), Y=(datatype, array))
    decoder = Decoder()
    for _ in range(2):  # the second time the layout is known
        got = decoder.decode(data.SerializeToString())
        assert (got.request_id, got.error, got.is_final) == ("7", "", True)
        assert (got.outputs["Y"].dtype, got.outputs["Y"].shape) == (array.dtype, shape)
        np.testing.assert_array_equal(got.outputs["Y"], array)
        assert got.outputs["Y"].flags.writeable
        assert got.outputs["Y"].flags.aligned


@pytest.mark.parametrize(
    "datatype", [each for each in DATATYPES if each not in (FP16, BF16)], ids=str
)
def test_typed_contents_are_read_too(datatype: Datatype) -> None:
    """Servers that answer with typed contents are understood."""
    array = sample(np.random.default_rng(3), datatype, (2, 3))
    message = pb.ModelInferResponse()
    output = message.outputs.add(name="Y", datatype=datatype.wire, shape=[2, 3])
    getattr(output.contents, str(datatype.contents)).extend(array.reshape(-1).tolist())
    got = Decoder().decode(message.SerializeToString()).outputs["Y"]
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


def test_parameters_and_the_final_flag_are_read() -> None:
    """A response says which parameters it has, and whether others follow."""
    message = pb.ModelInferResponse(id="a")
    message.parameters["triton_final_response"].bool_param = False
    message.parameters["steps"].int64_param = 3
    stream = pb.ModelStreamInferResponse(infer_response=message, error_message="no")
    got = Decoder().decode_stream(stream.SerializeToString())
    assert (got.request_id, got.error, got.is_final) == ("a", "no", False)
    assert got.parameters == {"triton_final_response": False, "steps": 3}


def test_an_answer_says_who_gave_it() -> None:
    """Beside the arrays are version, parameters and request id, also where the layout is known."""
    message = response(Y=(DATATYPES[1], np.zeros(3, np.uint8)))
    message.parameters["steps"].int64_param = 3
    decoder = Decoder()
    for request_id in ("a", "b"):
        message.id = request_id
        outputs = decoder.decode(message.SerializeToString()).outputs
        assert (outputs.version, outputs.request_id) == ("1", request_id)
        assert outputs.parameters == {"steps": 3}
        assert list(outputs) == ["Y"]


def test_fields_of_a_newer_protocol_are_passed_over() -> None:
    """Unknown numbers, high numbers and fields without a length change nothing."""
    unknown = b"\x78\x01" + b"\x82\x01\x02hi"  # 15: varint; 16: two bytes
    plain = response(Y=(DATATYPES[1], np.arange(3, dtype=np.uint8))).SerializeToString()
    got = Decoder().decode(unknown + plain + unknown)
    assert got.outputs["Y"].tolist() == [0, 1, 2]
    size = len(unknown + plain)
    stream = unknown + b"\x12" + bytes((size,)) + unknown + plain + b"\x0a\x02no"
    again = Decoder().decode_stream(stream)
    assert (again.error, again.outputs["Y"].tolist()) == ("no", [0, 1, 2])


@pytest.mark.parametrize("count", [2, 3])
def test_typed_contents_of_the_wrong_number_are_malformed(count: int) -> None:
    """Fewer or more elements than the shape says are refused by the name of the output."""
    message = pb.ModelInferResponse()
    output = message.outputs.add(name="Y", datatype="INT32", shape=[1])
    output.contents.int_contents.extend(range(count))
    with pytest.raises(MalformedAnswer, match=f"'Y': expected 1 elements of INT32.*got {count}"):
        Decoder().decode(message.SerializeToString())


@pytest.mark.parametrize(
    "shape", [[-1], [-1, -1], [1 << 62, 8], [0, 1 << 62, 8], [0] * 65], ids=str
)
def test_impossible_shapes_are_malformed(shape: list[int]) -> None:
    """Negative and immense extents are refused and nothing is allocated for them."""
    for datatype in ("FP32", "BYTES"):
        raw = b"" if 0 in shape else b"abcd"
        message = pb.ModelInferResponse(raw_output_contents=[raw])
        message.outputs.add(name="Y", datatype=datatype, shape=shape)
        with pytest.raises(MalformedAnswer, match="output 'Y'"):
            Decoder().decode(message.SerializeToString())


_VALID = pb.ModelStreamInferResponse(
    infer_response=response(
        Y=(DATATYPES[10], np.ones((2, 40), np.float32)), Z=(BYTES, np.array([b"ab", b""], object))
    )
).SerializeToString()


@given(st.integers(0, len(_VALID) - 1), st.binary(max_size=3), st.integers(0, 4))
def test_damaged_bytes_are_read_or_malformed(at: int, put: bytes, cut: int) -> None:
    """A message that is cut or overwritten anywhere raises MalformedAnswer, or is a message."""
    damaged = _VALID[:at] + put + _VALID[at + cut :]
    with contextlib.suppress(MalformedAnswer):
        Decoder().decode_stream(damaged)


@given(st.binary(max_size=200))
def test_noise_is_read_or_malformed(data: bytes) -> None:
    """Any bytes raise MalformedAnswer or are a message."""
    for decode in (Decoder().decode, Decoder().decode_stream):
        with contextlib.suppress(MalformedAnswer):
            decode(data)
