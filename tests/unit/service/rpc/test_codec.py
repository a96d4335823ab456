"""Requests decoded and answers encoded by hand are what protobuf itself would make of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.errors import InvalidRequest
from service.pb.grpc_service_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from service.rpc.codec import ReplyEncoder, parse_request, stream_refusal
from service.rpc.decoding import decode_request
from service.tensors import BYTES, DATATYPES, FP32, Array, Datatype, Signature, Tensors, TensorSpec
from tests.support.requests import answer, one, raw_request, same, typed_request

SHAPES = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
TYPED = [datatype for datatype in DATATYPES if datatype.contents is not None]


def arrays_of(draw: st.DrawFn, datatype: Datatype) -> Array:
    """Draw a tensor of a datatype; BYTES elements are text."""
    shape = draw(SHAPES)
    if datatype is not BYTES:
        return draw(npst.arrays(datatype.numpy, shape))
    size = int(np.prod(shape, dtype=int))
    flat = np.empty(size, dtype=object)
    texts = st.lists(st.text(max_size=8), min_size=size, max_size=size)
    flat[:] = [text.encode() for text in draw(texts)]
    return flat.reshape(shape)


@st.composite
def named_tensors(draw: st.DrawFn, datatypes: list[Datatype]) -> dict[str, tuple[Datatype, Array]]:
    """Draw the inputs or outputs of a model."""
    chosen = draw(st.lists(st.sampled_from(datatypes), min_size=1, max_size=4))
    names = draw(
        st.lists(st.text(min_size=1, max_size=8), min_size=len(chosen), max_size=len(chosen),
                 unique=True)
    )  # fmt: skip
    return {
        name: (datatype, arrays_of(draw, datatype))
        for name, datatype in zip(names, chosen, strict=True)
    }


def signature_of(tensors: dict[str, tuple[Datatype, Array]]) -> Signature:
    """Return a signature that takes and gives these tensors in any shape."""
    specs = tuple(
        TensorSpec(name, datatype, (-1,) * array.ndim)
        for name, (datatype, array) in tensors.items()
    )
    return Signature(specs, specs, batched=False)


def assert_decoded(request: ModelInferRequest, sent: dict[str, tuple[Datatype, Array]]) -> None:
    """Fail unless a request decodes to what was sent; BYTES as text."""
    parsed = parse_request(request.SerializeToString())
    decoded = decode_request("m", signature_of(sent), parsed).inputs
    assert list(decoded) == list(sent)
    for name, (datatype, array) in sent.items():
        got = decoded[name]
        if datatype is BYTES:
            assert got.shape == array.shape
            assert [t.encode() for t in got.reshape(-1)] == array.reshape(-1).tolist()
        else:
            assert same(got, array, datatype)


@given(named_tensors(list(DATATYPES)))
def test_raw_requests_of_every_datatype(tensors: dict[str, tuple[Datatype, Array]]) -> None:
    """Raw contents of every datatype decode to the tensors that were sent."""
    assert_decoded(raw_request("m", tensors), tensors)


@given(named_tensors(TYPED))
def test_typed_requests_of_every_datatype(tensors: dict[str, tuple[Datatype, Array]]) -> None:
    """Typed contents of every datatype that has them decode to the tensors that were sent."""
    assert_decoded(typed_request("m", tensors), tensors)


@given(named_tensors(list(DATATYPES)), st.text(max_size=200), st.booleans())
def test_answers_are_what_protobuf_reads(
    tensors: dict[str, tuple[Datatype, Array]],
    request_id: str,
    again: bool,  # noqa: FBT001
) -> None:
    """An encoded answer parses to the right message, and protobuf would write the same one."""
    encoder = ReplyEncoder("m", "3", signature_of(tensors))
    outputs: Tensors = {name: array for name, (_, array) in tensors.items()}
    if again:  # the second answer of a shape reuses what is fixed
        encoder.unary("other", outputs)
    response = ModelInferResponse.FromString(encoder.unary(request_id, outputs))
    assert (response.model_name, response.model_version, response.id) == ("m", "3", request_id)
    assert [output.name for output in response.outputs] == list(outputs)
    for name, (datatype, array) in tensors.items():
        assert same(answer(response, name), array, datatype)
    expected = ModelInferResponse(model_name="m", model_version="3", id=request_id)
    for name, (datatype, array) in tensors.items():
        expected.outputs.add(name=name, datatype=datatype.wire, shape=array.shape)
    expected.raw_output_contents.extend(response.raw_output_contents)
    assert response == expected
    streamed = ModelStreamInferResponse.FromString(encoder.stream(request_id, outputs))
    expected.parameters["triton_final_response"].bool_param = True
    assert streamed == ModelStreamInferResponse(infer_response=expected)


@given(st.text(max_size=300), st.text(max_size=300))
def test_refusals_are_what_protobuf_reads(request_id: str, message: str) -> None:
    """A refusal carries its text, never empty, and the id alone."""
    refused = ModelStreamInferResponse.FromString(stream_refusal(request_id, message))
    assert refused.error_message == (message or "unknown error")
    assert refused.infer_response == ModelInferResponse(id=request_id)
    spec = (TensorSpec("X", FP32, (1,)),)
    encoder = ReplyEncoder("m", "3", Signature(spec, spec, batched=False))
    failed = ModelStreamInferResponse.FromString(encoder.stream_error(request_id, message))
    assert failed.error_message == (message or "unknown error")
    assert (failed.infer_response.model_name, failed.infer_response.id) == ("m", request_id)


@given(st.binary(max_size=500))
def test_arbitrary_bytes_are_refused_or_read(message: bytes) -> None:
    """Bytes that are no request raise InvalidRequest and nothing else."""
    try:
        request = parse_request(message)
    except InvalidRequest as error:
        assert "malformed request" in str(error) or "request id" in str(error)  # noqa: PT017
        return
    assert isinstance(request, ModelInferRequest)


@given(st.data())
def test_damaged_requests_raise_nothing_unexpected(data: st.DataObject) -> None:
    """A request with changed bytes is refused by our errors, or decodes to something valid."""
    sent = one(FP32, np.ones((2, 3), np.float32))
    message = bytearray(raw_request("m", sent, request_id="id").SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        request = parse_request(bytes(message))
        decoded = decode_request("m", signature_of(sent), request).inputs
    except InvalidRequest:
        return
    assert decoded["X"].ndim == 2


@pytest.mark.parametrize("key", ["x" * 1024, "é" * 1024])
def test_longest_id_is_taken(key: str) -> None:
    """An id of 1024 characters is echoed."""
    request = parse_request(ModelInferRequest(id=key).SerializeToString())
    assert request.id == key
