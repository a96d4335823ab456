"""Every datatype, sent in every way, over both RPCs, comes back bit for bit."""

from typing import Final

import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from service.tensors import DATATYPES, Datatype, from_raw, to_raw
from tests.support import models, shared
from tests.support.requests import answer, one, raw_request, same, typed_request
from tests.support.stub import WAIT_S, Stub

_OUTPUT_BYTES: Final = 4096  # room for an output in shared memory
_WAYS: Final = [
    (datatype, way)
    for datatype in DATATYPES
    for way in ("raw", "typed", "shared memory")
    if way != "typed" or datatype.contents is not None
]


def infer(stub: Stub, rpc: str, request: ModelInferRequest) -> ModelInferResponse:
    """Send one request by one of the two RPCs."""
    if rpc == "unary":
        response: ModelInferResponse = stub.infer(request, timeout=WAIT_S)
        return response
    (reply,) = stub.stream(iter([request]), timeout=WAIT_S)
    assert reply.error_message == ""
    answered: ModelInferResponse = reply.infer_response
    return answered


@pytest.mark.parametrize("rpc", ["unary", "stream"])
@pytest.mark.parametrize(
    ("datatype", "way"), _WAYS, ids=[f"{datatype}-{way}" for datatype, way in _WAYS]
)
def test_tensor_comes_back_as_it_was_sent(
    stub: Stub, datatype: Datatype, way: str, rpc: str
) -> None:
    """Two requests with values of their own each get them back, where they want them."""
    model = f"identity_{datatype.wire.lower()}"
    random = np.random.default_rng(len(way))
    for _ in range(2):
        array = models.sample(random, datatype, (3, 5))
        sent = one(datatype, array)
        if way == "shared memory":
            raw = to_raw(datatype, array)
            with (
                shared.region(stub, len(raw), raw) as (source, _),
                shared.region(stub, _OUTPUT_BYTES) as (sink, target),
            ):
                request = raw_request(model, sent, request_id="id", outputs=["Y"])
                request.ClearField("raw_input_contents")
                shared.place(request.inputs[0], source, len(raw))
                shared.place(request.outputs[0], sink, _OUTPUT_BYTES)
                response = infer(stub, rpc, request)
                assert list(response.raw_output_contents) == [b""]
                size = response.outputs[0].parameters["shared_memory_byte_size"].int64_param
                got = from_raw(datatype, tuple(response.outputs[0].shape), target.contents[:size])
        else:
            build = raw_request if way == "raw" else typed_request
            response = infer(stub, rpc, build(model, sent, request_id="id"))
            got = answer(response)
        assert (response.id, response.outputs[0].datatype) == ("id", datatype.wire)
        assert same(got, array, datatype)
