"""Headers that become parameters: over both transports, unary and streaming, and over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from service.tensors import FP32
from tests.integration.conftest import TRANSPORTS
from tests.support import python_models, servers
from tests.support.requests import answer, one, raw_request
from tests.support.rest import ask
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, refusal

RESERVED = "Header 'priority' is reserved for Triton usage and cannot be forwarded."


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RunningServer]:
    """Serve a model that gives its parameters, and forward some headers."""
    root: Path = python_models.write(tmp_path_factory.mktemp("python"))
    flags = ["--model-control", "explicit", "--load-model", "parameter"]
    flags += ["--allow-python-backend", "--transport", request.param]
    flags += ["--forward-headers", "x-.*|priority"]
    with servers.serve(root, *flags) as running:
        yield running


def request(**parameters: str) -> ModelInferRequest:
    """Return a request with parameters of its own."""
    made = raw_request("parameter", one(FP32, np.zeros(1, np.float32), "INPUT0"))
    for name, value in parameters.items():
        made.parameters[name].string_param = value
    return made


def parameters(response: ModelInferResponse) -> dict[str, str]:
    """Return what the model was given."""
    keys, values = (answer(response, name).tolist() for name in ("key", "value"))
    return {key.decode(): value.decode() for key, value in zip(keys, values, strict=True)}


def test_models_see_headers(server: RunningServer) -> None:
    """Those that match, of each call its own; they win over parameters of the same name."""
    with server.stub() as stub:
        for user in ("ann", "bob", ""):
            metadata = (("x-user", user), ("authorization", "t"), ("x-bin", b"\0"))
            response = stub.infer(request(own="1", xx="2"), metadata=metadata, timeout=WAIT_S)
            assert parameters(response) == {"own": "1", "xx": "2", "x-user": user}
        response = stub.infer(request(own="1"), timeout=WAIT_S)
        assert parameters(response) == {"own": "1"}
        forged = request()
        forged.parameters["x-user"].string_param = "root"
        response = stub.infer(forged, metadata=(("x-user", "ann"),), timeout=WAIT_S)
        assert parameters(response) == {"x-user": "ann"}


def test_requests_of_a_stream_have_its_headers(server: RunningServer) -> None:
    """Every request of a stream is given those of the stream."""
    with server.stub() as stub:
        replies = stub.stream(
            iter([request(), request(n="1")]), metadata=(("x-user", "ann"),), timeout=WAIT_S
        )
        seen = [parameters(reply.infer_response) for reply in replies]
        assert seen == [{"x-user": "ann"}, {"n": "1", "x-user": "ann"}]
        replies = stub.stream(iter([request()]), metadata=(("priority", "1"),), timeout=WAIT_S)
        assert [reply.error_message for reply in replies] == [RESERVED]


def test_reserved_headers_are_refused(server: RunningServer) -> None:
    """A header that would set what the server reads is INVALID_ARGUMENT, in Triton's words."""
    with server.stub() as stub:
        refused = refusal(stub.infer, request(), metadata=(("priority", "1"),))
        assert refused == (grpc.StatusCode.INVALID_ARGUMENT, RESERVED)


def test_headers_of_http(server: RunningServer) -> None:
    """What comes over HTTP is given its headers too."""
    body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [1], "data": [0.0]}]}
    path = "/v2/models/parameter/infer"
    reply = ask(server.http_address, "POST", path, body, {"X-User": "eve"})
    outputs = {output["name"]: output["data"] for output in reply.json()["outputs"]}
    assert outputs == {"key": ["x-user"], "value": ["eve"]}
