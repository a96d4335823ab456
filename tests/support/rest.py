"""The REST side of the server: requests as JSON or with binary data, and what is in the answers."""

import http.client
import json
import math
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from service.pb.grpc_service_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
)
from service.tensors import BF16, BOOL, BY_WIRE, BYTES, Datatype, from_raw, to_raw
from tests.support.stub import WAIT_S

LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response. headers: lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body, parsed."""
        return json.loads(self.body)

    def error(self) -> tuple[int, str]:
        """Return status and text of a refusal, which has nothing else in its body."""
        fields = self.json()
        assert list(fields) == ["error"], fields
        return self.status, fields["error"]


def ask(
    address: str,
    method: str,
    path: str,
    body: bytes | str | dict[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Make a request on a connection of its own. body: a dict is sent as JSON."""
    connection = http.client.HTTPConnection(address, timeout=WAIT_S)
    try:
        content = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, content, dict(headers or {}))
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


def infer(address: str, model: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
    """Make an infer request."""
    return ask(address, "POST", f"/v2/models/{model}/infer", body, headers)


def infer_as(address: str, request: ModelInferRequest, *, binary: bool) -> Answer:
    """Make the infer request that a gRPC message with raw contents is, over REST."""
    version = f"/versions/{quote(request.model_version, '')}" if request.model_version else ""
    path = f"/v2/models/{quote(request.model_name, '')}{version}/infer"
    body, headers = binary_body(request) if binary else (json_body(request), {})
    return ask(address, "POST", path, body, headers)


def json_body(request: ModelInferRequest) -> bytes:
    """Return the JSON body of a request; its answer is to be JSON as well."""
    fields = _fields(request)
    for entry, raw in zip(fields["inputs"], request.raw_input_contents, strict=True):
        entry["data"] = to_json(BY_WIRE[entry["datatype"]], entry["shape"], raw)
    return json.dumps(fields).encode()


def binary_body(request: ModelInferRequest) -> tuple[bytes, dict[str, str]]:
    """Return a body with binary data, and its headers; the answer is to be binary as well."""
    fields = _fields(request)
    for entry, raw in zip(fields["inputs"], request.raw_input_contents, strict=False):
        entry.setdefault("parameters", {})["binary_data_size"] = len(raw)
    fields.setdefault("parameters", {})["binary_data_output"] = True
    head = json.dumps(fields).encode()
    return b"".join([head, *request.raw_input_contents]), {LENGTH: str(len(head))}


def to_json(datatype: Datatype, shape: list[int], raw: bytes) -> list[Any]:
    """Return raw contents as a flat list of what JSON can hold."""
    array = from_raw(datatype, tuple(shape), raw).reshape(-1)
    if datatype is BYTES:
        return [element.decode() for element in array.tolist()]
    if datatype is BF16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return list(array.tolist())


def response_of(answer: Answer) -> ModelInferResponse:
    """Return the gRPC message that an answer, JSON or binary, says the same as."""
    assert answer.status == http.client.OK, answer.body
    length = answer.headers.get(LENGTH.lower())
    head = answer.body[: int(length)] if length is not None else answer.body
    rest = answer.body[len(head) :]
    fields = json.loads(head)
    response = ModelInferResponse(
        model_name=fields["model_name"],
        model_version=fields["model_version"],
        id=fields.get("id", ""),
    )
    for entry in fields["outputs"]:
        response.outputs.add(name=entry["name"], datatype=entry["datatype"], shape=entry["shape"])
        size = entry.get("parameters", {}).get("binary_data_size")
        if size is None:
            raw = _raw_of(BY_WIRE[entry["datatype"]], entry["data"])
        else:
            raw, rest = rest[:size], rest[size:]
        response.raw_output_contents.append(raw)
    assert not rest
    return response


def exchange(address: str, request: bytes) -> bytes:
    """Send bytes on a new connection and return what comes until the server closes it."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def _raw_of(datatype: Datatype, data: list[Any]) -> bytes:
    if datatype is BYTES:
        elements = np.empty(len(data), object)
        elements[:] = [text.encode() for text in data]
        return to_raw(datatype, elements)
    if datatype is BOOL:
        assert {type(value) for value in data} <= {bool}
    if datatype is BF16:
        wide = np.array(data, np.float32).view(np.uint32)
        quiet = np.array([0x7FC0 if math.isnan(value) else 0 for value in data], np.uint16)
        return ((wide >> 16).astype(np.uint16) | quiet).tobytes()
    return np.array(data, datatype.numpy).tobytes()


def _fields(request: ModelInferRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "inputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.shape),
                **_parameters(tensor.parameters),
            }
            for tensor in request.inputs
        ],
        **_parameters(request.parameters),
    }
    if request.id:
        fields["id"] = request.id
    if request.outputs:
        fields["outputs"] = [
            {"name": output.name, **_parameters(output.parameters)} for output in request.outputs
        ]
    return fields


def _parameters(parameters: Mapping[str, InferParameter]) -> dict[str, Any]:
    if not parameters:
        return {}
    values = {
        key: getattr(value, kind) if (kind := value.WhichOneof("parameter_choice")) else None
        for key, value in parameters.items()
    }
    return {"parameters": values}
