"""Tensors that are too much, group B of docs/faults.md; the others are in test_bad_input.py."""

from service.pb.grpc_service_pb2 import ModelInferRequest
from tests.integration.faults.conftest import LIMIT_MIB, Guarded
from tests.support.stub import WAIT_S


def test_as_many_strings_as_a_message_holds(guarded: Guarded) -> None:
    """B16: A message full of empty strings, of four bytes each, is served in bounded memory."""
    count = (LIMIT_MIB << 20) // 4 - 64
    request = ModelInferRequest(model_name="identity_bytes")
    request.inputs.add(name="X", datatype="BYTES", shape=(1, count))
    request.raw_input_contents.append(bytes(4 * count))
    limit = ("grpc.max_receive_message_length", LIMIT_MIB << 21)
    both_ways = 2 * LIMIT_MIB
    with guarded.unharmed(both_ways), guarded.server.stub(limit) as stub:
        response = stub.infer(request, timeout=WAIT_S)
        assert response.raw_output_contents == list(request.raw_input_contents)
