"""What grpc-requests, which learns a service by reflection alone, gets from Penstock.

Run in an environment of its own by test_programs.py.
"""

import base64
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from grpc_requests import Client

SERVICE = "inference.GRPCInferenceService"
RPCS = 20


def request(request_id: str) -> dict[str, Any]:
    """Return a request to simple with typed contents, as JSON has it."""
    contents = {"int_contents": list(range(16))}
    return {
        "model_name": "simple",
        "id": request_id,
        "inputs": [
            {"name": name, "datatype": "INT32", "shape": [1, 16], "contents": contents}
            for name in ("INPUT0", "INPUT1")
        ],
    }


def sums(response: dict[str, Any]) -> list[int]:
    """Return OUTPUT0 of an answer."""
    raw = base64.b64decode(response["raw_output_contents"][0])
    return [int(value) for value in np.frombuffer(raw, np.int32)]


def connect(address: str) -> AbstractContextManager[Client]:
    """Give the client of a case."""
    return nullcontext(Client(address))


def test_services(client: Client) -> None:
    """Reflection lists the services, and every RPC of the protocol."""
    assert {SERVICE, "grpc.health.v1.Health"} <= set(client.service_names)
    assert len(client.service(SERVICE).method_names) == RPCS


def test_unary(client: Client) -> None:
    """Requests built from the reflected messages are answered."""
    service = client.service(SERVICE)
    assert service.ServerLive() == {"live": True}
    assert service.ModelReady({"name": "simple"}) == {"ready": True}
    assert service.ModelMetadata({"name": "simple"})["versions"] == ["1"]
    answer = service.ModelInfer(request("7"))
    assert answer["id"] == "7"
    assert sums(answer) == [2 * value for value in range(16)]


def test_stream(client: Client) -> None:
    """A stream of ten requests has ten answers in their order."""
    requests = (request(str(index)) for index in range(10))
    answers = list(client.service(SERVICE).ModelStreamInfer(requests))
    assert [answer["infer_response"]["id"] for answer in answers] == [str(i) for i in range(10)]


def test_health(client: Client) -> None:
    """The health service is found and says SERVING."""
    assert client.service("grpc.health.v1.Health").Check() == {"status": "SERVING"}
