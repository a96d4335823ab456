"""Infer requests over REST: forms of data, parameters, compression, one beside the other."""

import gzip
import http.client
import json
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.tensors import FP32, FP64
from tests.support import models
from tests.support.requests import one, raw_request
from tests.support.rest import LENGTH, ask, binary_body, infer, infer_as, response_of
from tests.support.servers import RunningServer, serve
from tests.support.stub import WAIT_S, Stub
from tests.support.waiting import eventually

ROW: dict[str, Any] = {"name": "X", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}


def outputs(answer: Any) -> list[dict[str, Any]]:
    """Return the outputs of an answer that is JSON."""
    assert answer.status == http.client.OK, answer.body
    found: list[dict[str, Any]] = answer.json()["outputs"]
    return found


def test_answer_has_the_form_of_the_protocol(server: RunningServer) -> None:
    """Model, version, id and outputs with name, datatype, shape and flat data; and its headers."""
    answer = infer(server.http_address, "identity_fp32", {"id": "7", "inputs": [ROW]})
    assert answer.json() == {
        "model_name": "identity_fp32",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "Y", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}],
    }
    assert answer.headers["content-type"] == "application/json"
    assert "date" in answer.headers
    assert "server" not in answer.headers


def test_version_in_the_path(server: RunningServer) -> None:
    """A version may be named; one that there is not is 404."""
    path = "/v2/models/identity_fp32/versions/{}/infer"
    assert ask(server.http_address, "POST", path.format(1), {"inputs": [ROW]}).status == 200
    got = ask(server.http_address, "POST", path.format(2), {"inputs": [ROW]}).error()
    assert got == (404, "Request for unknown model: 'identity_fp32' version 2 is not found")


def test_nested_data(server: RunningServer) -> None:
    """Data may be nested as the shape is."""
    nested = ROW | {"data": [[1, 2], [3, 4]]}
    (output,) = outputs(infer(server.http_address, "identity_fp32", {"inputs": [nested]}))
    assert output["data"] == [1, 2, 3, 4]


def test_scalar(server: RunningServer) -> None:
    """A tensor without axes has the empty shape and one element."""
    fields = {"name": "X", "datatype": "FP32", "shape": [], "data": [2.5]}
    (output,) = outputs(infer(server.http_address, "scalar", {"inputs": [fields]}))
    assert output["shape"] == []
    assert len(output["data"]) == 1


def test_one_output_binary_and_one_not(server: RunningServer) -> None:
    """binary_data of an output wins over binary_data_output of the request."""
    tensor = {"datatype": "INT32", "shape": [1, 16], "data": list(range(16))}
    fields = {
        "inputs": [{"name": "INPUT0", **tensor}, {"name": "INPUT1", **tensor}],
        "parameters": {"binary_data_output": True},
        "outputs": [
            {"name": "OUTPUT0", "parameters": {"binary_data": False}},
            {"name": "OUTPUT1"},
        ],
    }
    answer = infer(server.http_address, "simple", fields)
    assert answer.headers["content-type"] == "application/octet-stream"
    head = int(answer.headers[LENGTH.lower()])
    first, second = json.loads(answer.body[:head])["outputs"]
    assert first["data"] == [2 * index for index in range(16)]
    assert second["parameters"] == {"binary_data_size": 64}
    assert answer.body[head:] == bytes(64)


def test_body_without_json(server: RunningServer) -> None:
    """With a header length of 0 the body is the only input of one row, and the answer binary."""
    row = np.arange(784, dtype=np.float32)
    answer = infer(server.http_address, "mlp", row.tobytes(), {LENGTH: "0"})
    whole = infer_as(
        server.http_address, raw_request("mlp", one(FP32, row.reshape(1, -1))), binary=True
    )
    assert response_of(answer) == response_of(whole)
    text = infer(server.http_address, "identity_bytes", b"one element", {LENGTH: "0"})
    assert response_of(text).raw_output_contents[0] == b"\x0b\0\0\0one element"


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("simple", "is for models with one input, 'simple' has 2"),
        ("mlp", "input byte size mismatch for input 'X' for model 'mlp'. Expected 3136, got 4"),
    ],
)
def test_body_without_json_that_does_not_say_enough(
    server: RunningServer, model: str, text: str
) -> None:
    """It is refused where it leaves open what is meant."""
    status, got = infer(server.http_address, model, bytes(4), {LENGTH: "0"}).error()
    assert status == http.client.BAD_REQUEST
    assert text in got


def test_classification(server: RunningServer, stub: Stub) -> None:
    """The largest elements come as strings, as over gRPC."""
    request = raw_request("mlp", one(FP32, np.ones((2, 784), np.float32)), outputs=["Y"])
    request.outputs[0].parameters["classification"].int64_param = 3
    expected = stub.infer(request, timeout=WAIT_S)
    for binary in (False, True):
        assert response_of(infer_as(server.http_address, request, binary=binary)) == expected


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_request(server: RunningServer, coding: str) -> None:
    """The header length is that of the JSON in the body that was compressed."""
    request = raw_request("identity_fp32", one(FP32, np.ones((3, 5), np.float32)))
    body, headers = binary_body(request)
    packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    answer = infer(
        server.http_address, "identity_fp32", packed, headers | {"Content-Encoding": coding}
    )
    assert response_of(answer).raw_output_contents[0] == request.raw_input_contents[0]


def test_large_json_is_answered_beside_small(server: RunningServer) -> None:
    """A tensor of a million numbers as JSON comes back exact."""
    numbers = np.random.default_rng(3).standard_normal((10, 100_000))
    request = raw_request("identity_fp64", one(FP64, numbers))
    got = response_of(infer_as(server.http_address, request, binary=False))
    assert got.raw_output_contents[0] == request.raw_input_contents[0]


def test_hundred_at_once(server: RunningServer) -> None:
    """A hundred requests at once, JSON and binary, each get their own rows."""
    wrong: list[object] = []

    def one_client(index: int) -> None:
        rows = np.full((1 + index % 3, 4), index, np.float32)
        request = raw_request("identity_fp32", one(FP32, rows), request_id=str(index))
        try:
            got = response_of(infer_as(server.http_address, request, binary=index % 2 == 0))
        except Exception as error:  # noqa: BLE001  of a thread: told to the test
            wrong.append(error)
            return
        if got.id != str(index) or got.raw_output_contents[0] != rows.tobytes():
            wrong.append(got)

    threads = [threading.Thread(target=one_client, args=(index,)) for index in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not wrong


def test_requests_on_one_connection(server: RunningServer) -> None:
    """A connection is kept, also for requests that are sent before the answers are read."""
    connection = http.client.HTTPConnection(server.http_address, timeout=WAIT_S)
    for _ in range(3):
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read() == b'{"live":true}'
    connection.request("GET", "/v2/models/nope")
    refused = connection.getresponse()
    assert refused.read()
    assert "connection" not in refused.headers  # it goes on after a refusal, too
    socket = connection.sock
    socket.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
    received = b""
    while received.count(b'{"live":true}') < 5:
        received += socket.recv(1 << 16)
    connection.close()


def test_deadline(server: RunningServer) -> None:
    """grpc-timeout ends a request that takes longer, and frees what it used."""
    fields = {"name": "X", "datatype": "INT64", "shape": [1, 1], "data": [100_000]}
    got = infer(server.http_address, "slow", {"inputs": [fields]}, {"grpc-timeout": "100m"})
    assert got.error() == (504, "Deadline Exceeded")
    eventually(lambda: not server.runs("slow"), "the run is stopped")


def test_queue_timeout_and_priority_are_those_of_grpc(tmp_path: Path) -> None:
    """A full queue is 429, and the text is gRPC's."""
    models.publish(tmp_path, "slow", models.slow())
    fields = {"inputs": [{"name": "X", "datatype": "INT64", "shape": [1, 1], "data": [100_000]}]}
    with serve(tmp_path, "--max-queue-requests", "1", "--max-batch-size", "1") as server:
        connections = []
        for _ in range(2):
            connection = http.client.HTTPConnection(server.http_address, timeout=WAIT_S)
            connection.request("POST", "/v2/models/slow/infer", json.dumps(fields))
            connections.append(connection)
            eventually(lambda: server.runs("slow"), "the first one runs")
        eventually(lambda: server.queue_depth("slow") == 1, "the second one waits")
        status, text = infer(server.http_address, "slow", fields).error()
        assert status == http.client.TOO_MANY_REQUESTS
        assert "Exceeds maximum queue size" in text
        for connection in connections:
            connection.close()
        eventually(lambda: not server.runs("slow"), "what nobody waits for is stopped")
        eventually(lambda: server.queue_depth("slow") == 0, "what nobody waits for is let go")


def test_caller_who_leaves_is_not_computed_for(server: RunningServer) -> None:
    """A connection that is closed cancels its request."""
    fields = {"name": "X", "datatype": "INT64", "shape": [1, 1], "data": [100_000]}
    connection = http.client.HTTPConnection(server.http_address, timeout=WAIT_S)
    connection.request("POST", "/v2/models/slow/infer", json.dumps({"inputs": [fields]}))
    eventually(lambda: server.runs("slow"), "it runs")
    connection.close()
    eventually(lambda: not server.runs("slow"), "it is stopped")
