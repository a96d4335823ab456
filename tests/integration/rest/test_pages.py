"""Pages other than inference say what the RPC behind each says."""

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from service.pb.grpc_service_pb2 import (
    ModelConfigRequest,
    ModelMetadataRequest,
    RepositoryIndexRequest,
    ServerMetadataRequest,
)
from tests.support import models
from tests.support.rest import Answer, ask, infer
from tests.support.servers import RunningServer, serve
from tests.support.stub import Stub

EXPLICIT = (
    "explicit model load / unload is not allowed if polling is enabled; "
    "penstock serve --model-control explicit allows it"
)


def get(server: RunningServer, path: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Ask for a page."""
    return ask(server.http_address, "GET", path, headers=headers)


def post(server: RunningServer, path: str, body: Any = None) -> Answer:
    """Post to a page."""
    return ask(server.http_address, "POST", path, body)


def as_numbers(value: Any) -> Any:
    """Turn the strings that protobuf's JSON makes of 64-bit integers back into numbers."""
    if isinstance(value, dict):
        return {key: as_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [as_numbers(one) for one in value]
    is_number = isinstance(value, str) and value.lstrip("-").isdecimal()
    return int(value) if is_number else value


def whole(message: Any) -> Any:
    """Return a message in protobuf's own JSON, with the fields that have no value."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


@pytest.fixture(scope="module")
def explicit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Serve a repository whose models callers load, with shared memory."""
    root = tmp_path_factory.mktemp("models")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    flags = ("--model-control", "explicit", "--load-model", "simple", "--allow-client-shm")
    with serve(root, *flags) as server:
        yield server


def test_server_metadata(server: RunningServer, stub: Stub) -> None:
    """Name, version and extensions are those of ServerMetadata."""
    expected = stub.metadata(ServerMetadataRequest())
    assert get(server, "/v2").json() == whole(expected)
    assert "binary_tensor_data" in expected.extensions


@pytest.mark.parametrize("path", ["simple", "simple/versions/1"])
def test_model_metadata(server: RunningServer, stub: Stub, path: str) -> None:
    """Versions, platform and tensors are those of ModelMetadata; extents are numbers."""
    expected = whole(stub.model_metadata(ModelMetadataRequest(name="simple")))
    got = get(server, f"/v2/models/{path}").json()
    assert got | {"versions": [1], "properties": {}} == as_numbers(expected)
    assert got["versions"] == ["1"]


def test_model_config(server: RunningServer, stub: Stub) -> None:
    """The configuration is that of ModelConfig, with its defaults; enums are names."""
    expected = whole(stub.model_config(ModelConfigRequest(name="simple")).config)
    got = get(server, "/v2/models/simple/config").json()
    assert as_numbers(got) == as_numbers(expected)
    assert got["input"][0]["dims"] == [16]


def test_statistics(server: RunningServer, stub: Stub) -> None:
    """Counts are numbers and those of ModelStatistics; without a name all models are there."""
    row = {"name": "X", "datatype": "INT16", "shape": [1, 1], "data": [1]}
    before = stub.stats_of("identity_int16").inference_count
    infer(server.http_address, "identity_int16", {"inputs": [row]})
    (stats,) = get(server, "/v2/models/identity_int16/stats").json()["model_stats"]
    assert stats["inference_count"] == before + 1
    assert stats["inference_stats"]["success"]["count"] > 0
    assert get(server, "/v2/models/identity_int16/versions/1/stats").json()["model_stats"]
    assert len(get(server, "/v2/models/stats").json()["model_stats"]) > 10
    status, text = get(server, "/v2/models/nope/stats").error()
    assert (status, text) == (400, "requested model 'nope' is not available")


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("nope", 404, "Request for unknown model: 'nope' is not found"),
        ("simple/versions/7", 404, "Request for unknown model: 'simple' version 7 is not found"),
        ("simple/versions/x", 400, "failed to get model version"),
    ],
)
@pytest.mark.parametrize("page", ["", "/ready", "/config"])
def test_models_that_there_are_not(
    server: RunningServer, path: str, status: int, text: str, page: str
) -> None:
    """Every page of a model says in the same words that there is none; /ready as well."""
    got = get(server, f"/v2/models/{path}{page}").error()
    assert got[0] == status
    assert text in got[1]


def test_ready(server: RunningServer) -> None:
    """What is ready says so."""
    assert get(server, "/v2/health/live").json() == {"live": True}
    assert get(server, "/v2/health/ready").json() == {"ready": True}
    assert get(server, "/v2/models/simple/ready").json() == {"name": "simple", "ready": True}
    assert get(server, "/v2/models/simple/versions/1/ready").status == 200
    assert ask(server.http_address, "HEAD", "/v2/health/ready").body == b""


def test_index(server: RunningServer, stub: Stub) -> None:
    """The index is an array of what RepositoryIndex says."""
    expected = [
        {"name": model.name, "version": model.version, "state": model.state}
        for model in stub.index(RepositoryIndexRequest()).models
    ]
    assert post(server, "/v2/repository/index").json() == expected
    assert post(server, "/v2/repository/index", {"ready": True}).json() == expected
    named = post(server, "/v2/repository/index", {"repository_name": "x"}).error()
    assert named == (501, "'repository_name' specification is not supported")


def test_control_is_refused_where_it_is_not_explicit(server: RunningServer) -> None:
    """Load and unload answer as over gRPC."""
    for verb in ("load", "unload"):
        assert post(server, f"/v2/repository/models/simple/{verb}").error() == (503, EXPLICIT)


def test_load_and_unload(explicit: RunningServer) -> None:
    """A model is unloaded, and loaded with a configuration and a file from the request."""
    base = "/v2/repository/models/simple"
    assert post(explicit, f"{base}/unload", {"parameters": {"unload_dependents": True}}).body
    refused = get(explicit, "/v2/models/simple/ready").error()
    assert refused == (404, "Request for unknown model: 'simple' has no available versions")
    config = json.dumps({"max_batch_size": 4})
    file = base64.b64encode(models.simple()).decode()
    parameters = {"config": config, "file:3/model.onnx": file}
    assert post(explicit, f"{base}/load", {"parameters": parameters}).status == 200
    assert get(explicit, "/v2/models/simple").json()["versions"] == ["3"]
    assert post(explicit, f"{base}/load").status == 200


@pytest.mark.parametrize(
    ("parameters", "status", "text"),
    [
        ({"file:1/model.onnx": "***"}, 400, "parameter 'file:1/model.onnx' is not base64"),
        ({"file:1/model.onnx": "é"}, 400, "parameter 'file:1/model.onnx' is not base64"),
        ({"file:1/model.onnx": 1}, 400, "is a whole number, expected a string in base64"),
        ({"config": None}, 400, "parameter 'config' is null"),
        ({"config": 1}, 400, "invalid value type for load parameter 'config'"),
        ({"x": "y"}, 400, "unrecognized load parameter 'x'."),
    ],
)
def test_wrong_load(
    explicit: RunningServer, parameters: dict[str, Any], status: int, text: str
) -> None:
    """Wrong parameters are refused by name."""
    path = "/v2/repository/models/simple/load"
    got = post(explicit, path, {"parameters": parameters}).error()
    assert got[0] == status
    assert text in got[1]


def test_shared_memory(explicit: RunningServer, tmp_path: Path) -> None:
    """Regions are registered, told, used and forgotten as over gRPC."""
    base = "/v2/systemsharedmemory"
    key = f"/penstock-rest-{tmp_path.name}"
    file = Path("/dev/shm") / key[1:]  # noqa: S108  where POSIX shared memory is
    file.write_bytes(bytes(range(1, 65)) + bytes(64))
    try:
        region = {"key": key, "offset": 0, "byte_size": 128}
        assert post(explicit, f"{base}/region/r/register", region).status == 200
        listed = get(explicit, f"{base}/status").json()
        assert listed == [{"name": "r", **region}]
        assert get(explicit, f"{base}/region/r/status").json() == listed
        place = {"shared_memory_region": "r", "shared_memory_byte_size": 64}
        tensor = {"datatype": "INT32", "shape": [1, 16]}
        answer = infer(explicit.http_address, "simple", {
            "inputs": [
                {"name": "INPUT0", **tensor, "parameters": place},
                {"name": "INPUT1", **tensor, "data": [0] * 16},
            ],
            "outputs": [
                {"name": "OUTPUT0", "parameters": place | {"shared_memory_offset": 64}},
                {"name": "OUTPUT1"},
            ],
        })  # fmt: skip
        first, second = answer.json()["outputs"]
        assert first["parameters"]["shared_memory_region"] == "r"
        assert "data" not in first
        assert len(second["data"]) == 16
        assert file.read_bytes()[64:] == bytes(range(1, 65))
        assert post(explicit, f"{base}/region/r/unregister").status == 200
        assert get(explicit, f"{base}/region/r/status").error()[0] == 404
    finally:
        file.unlink()


@pytest.mark.parametrize(
    ("kind", "body", "text"),
    [
        ("system", {}, "the request has no 'key'"),
        ("system", {"key": "/k", "byte_size": "1"}, "'byte_size' of the request is a string"),
        ("system", {"key": "/k", "byte_size": -1}, "'byte_size' is -1, expected a natural number"),
        ("cuda", {"raw_handle": {}, "device_id": 0, "byte_size": 1}, "'b64' of raw_handle is null"),
        ("cuda", {"raw_handle": {"b64": "AA=="}, "device_id": 0, "byte_size": 1}, "GPUs not"),
    ],
)
def test_wrong_register(
    explicit: RunningServer, kind: str, body: dict[str, Any], text: str
) -> None:
    """What cannot be registered is refused by name."""
    got = post(explicit, f"/v2/{kind}sharedmemory/region/r/register", body).error()
    assert got[0] == 400
    assert text in got[1]


def test_answers_are_counted(server: RunningServer) -> None:
    """/metrics tells how many answers had which status, and how many are connected."""
    name = "penstock_http_responses_total"
    before = server.sample(name, status="404")
    get(server, "/nothing")
    get(server, "/v2/models/nope")
    assert server.sample(name, status="404") == before + 2
    assert server.sample("penstock_http_connections") >= 1


def test_trace_and_log_settings(explicit: RunningServer) -> None:
    """Settings are told and changed; null takes a change back."""
    trace = get(explicit, "/v2/trace/setting").json()
    assert trace["trace_level"] == ["OFF"]
    changed = post(explicit, "/v2/models/simple/trace/setting", {"trace_rate": "7"}).json()
    assert changed["trace_rate"] == "7"
    assert get(explicit, "/v2/models/simple/trace/setting").json() == changed
    assert get(explicit, "/v2/trace/setting").json() == trace
    back = post(explicit, "/v2/models/simple/trace/setting", {"trace_rate": None}).json()
    assert back == trace
    logs = get(explicit, "/v2/logging").json()
    assert logs["log_error"] is True
    assert post(explicit, "/v2/logging", {"log_verbose_level": 1}).json() == logs | {
        "log_verbose_level": 1
    }
    assert post(explicit, "/v2/logging", {"log_info": 1.5}).error()[0] == 400
    assert post(explicit, "/v2/trace/setting", {"trace_rate": {}}).error()[0] == 400


def test_restricted(tmp_path: Path) -> None:
    """Restrictions hold over REST, by the same header, for pages that read bodies as well."""
    models.publish(tmp_path, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    flags = ("--restrict", "inference,metadata:key=secret")
    with serve(tmp_path, *flags) as server:
        expected = "This protocol is restricted, expecting header 'triton-grpc-protocol-key'"
        for path in ("/v2", "/v2/models/simple"):
            assert get(server, path).error() == (403, expected)
            assert get(server, path, {"triton-grpc-protocol-key": "secret"}).status == 200
            assert get(server, path, {"triton-grpc-protocol-key": "wrong"}).status == 403
        assert infer(server.http_address, "nope", b"{").error() == (403, expected)
        assert get(server, "/v2/models/simple/ready").status == 200


def test_without_rest(tmp_path: Path) -> None:
    """--no-rest leaves metrics and health."""
    models.publish(tmp_path, "simple", models.simple())
    with serve(tmp_path, "--no-rest") as server:
        assert get(server, "/v2").error()[0] == 404
        assert get(server, "/v2/models/simple").status == 404
        assert get(server, "/v2/health/live").status == 200
        assert get(server, "/v2/health/ready").status == 200
        assert server.sample("penstock_queue_depth", model="simple", version="1") == 0
