"""A ModelInferResponse into the body of an answer, JSON or JSON and binary data."""

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from service.pb.grpc_service_pb2 import InferParameter, ModelInferResponse
from service.rest.request import Forms
from service.rest.values import json_of
from service.tensors import BY_WIRE

JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"
HEADER_LENGTH: Final = "inference-header-content-length"


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


def infer_reply(message: bytes, forms: Forms) -> Reply:
    """Return the answer to an infer request.

    Raises InvalidRequest for an output that JSON cannot carry.
    """
    response = ModelInferResponse.FromString(message)
    fields: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
    }
    if response.id:
        fields["id"] = response.id
    if response.parameters:
        fields["parameters"] = _parameters(response.parameters)
    binary: list[bytes] = []
    outputs = fields["outputs"] = []
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        shape = tuple(output.shape)
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": shape}
        parameters = _parameters(output.parameters)
        if "shared_memory_region" in parameters:
            pass  # its data is there
        elif forms.is_binary(output.name):
            parameters["binary_data_size"] = len(raw)
            binary.append(raw)
        else:
            text = json_of(output.name, BY_WIRE[output.datatype], shape, raw)
            entry["data"] = orjson.Fragment(text)
        if parameters:
            entry["parameters"] = parameters
        outputs.append(entry)
    head = orjson.dumps(fields)
    if not binary:
        return Reply(200, head)
    return Reply(200, b"".join([head, *binary]), BINARY, {HEADER_LENGTH: str(len(head))})


def error_reply(status: int, text: str, headers: dict[str, str] | None = None) -> Reply:
    """Return an answer that says what went wrong."""
    return Reply(status, orjson.dumps({"error": text}), headers=headers or {})


def json_reply(value: object) -> Reply:
    """Return an answer that is JSON."""
    return Reply(200, orjson.dumps(value))


def _parameters(parameters: Any) -> dict[str, Any]:
    return {key: _value(parameter) for key, parameter in sorted(parameters.items())}


def _value(parameter: InferParameter) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return getattr(parameter, kind) if kind else None
