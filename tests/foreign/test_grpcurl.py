"""grpcurl against Penstock: every RPC by reflection alone, without a .proto file."""

import base64
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.foreign, pytest.mark.client("grpcurl")]

SERVICE = "inference.GRPCInferenceService"
NOT_FOUND, INVALID_ARGUMENT = 64 + 5, 64 + 3  # grpcurl exits with 64 + the status code
_CALL_S = 60.0
Grpcurl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def call(grpcurl: Path, address: str) -> Grpcurl:
    """Run grpcurl with these arguments before the address and those after it."""

    def run(
        *arguments: str, options: tuple[str, ...] = (), stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [grpcurl, "-plaintext", *options, address, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_CALL_S,
            check=False,
        )

    return run


def documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON documents that stand one after another in text."""
    decoder, found, at = json.JSONDecoder(object_pairs_hook=_proto_names), [], 0
    while at < len(text.rstrip()):
        document, at = decoder.raw_decode(text, at)
        found.append(document)
        at += len(text[at:]) - len(text[at:].lstrip())
    return found


def _proto_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # grpcurl says model_name or model_name, as the descriptors of the server have it.
    return {re.sub("([A-Z])", lambda m: f"_{m[1].lower()}", name): value for name, value in pairs}


def answer(call: Grpcurl, method: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return the only answer of an RPC of the inference service."""
    run = call(f"{SERVICE}/{method}", options=("-d", json.dumps(request)))
    assert run.returncode == 0, run.stderr
    (document,) = documents(run.stdout)
    return document


def simple_request(*values: int, **fields: str) -> dict[str, Any]:
    """Return a request to simple whose INPUT0 counts on from each value, a row each."""
    rows = np.array([[value + i for i in range(16)] for value in values], np.int32)
    inputs = [
        {
            "name": name,
            "datatype": "INT32",
            "shape": list(rows.shape),
            "contents": {"int_contents": rows.ravel().tolist()},
        }
        for name in ("INPUT0", "INPUT1")
    ]
    return {"model_name": "simple", "inputs": inputs, **fields}


def outputs(response: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the INT32 outputs of an answer by name."""
    return {
        output["name"]: np.frombuffer(base64.b64decode(raw), np.int32).reshape(
            [int(extent) for extent in output["shape"]],
        )
        for output, raw in zip(response["outputs"], response["raw_output_contents"], strict=True)
    }


def test_lists_services(call: Grpcurl) -> None:
    """Reflection lists the inference service, health and both versions of itself."""
    services = call("list").stdout.split()
    assert {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    } <= set(services)


def test_describes_messages_of_imported_files(call: Grpcurl) -> None:
    """Reflection also gives what the service's file imports."""
    described = call("describe", "inference.ModelConfig").stdout
    assert "max_batch_size = 4" in described


def test_server_is_live_and_ready(call: Grpcurl) -> None:
    """The server is live and ready and says what it is."""
    assert answer(call, "ServerLive", {}) == {"live": True}
    assert answer(call, "ServerReady", {}) == {"ready": True}
    assert answer(call, "ServerMetadata", {})["name"] == "penstock"


def test_model_is_ready(call: Grpcurl) -> None:
    """A model is ready; an unknown one is not, without an error."""
    assert answer(call, "ModelReady", {"name": "simple", "version": "1"}) == {"ready": True}
    assert answer(call, "ModelReady", {"name": "absent"}) == {}


def test_model_metadata(call: Grpcurl) -> None:
    """Metadata has names, datatypes and shapes."""
    metadata = answer(call, "ModelMetadata", {"name": "simple"})
    assert metadata["inputs"][1] == {
        "name": "INPUT1",
        "datatype": "INT32",
        "shape": ["-1", "16"],
    }
    assert metadata["versions"] == ["1"]


def test_model_config(call: Grpcurl) -> None:
    """The configuration has the batch size and the dimensions without the batch."""
    config = answer(call, "ModelConfig", {"name": "simple"})["config"]
    assert config["max_batch_size"] == 8
    assert config["input"][0]["dims"] == ["16"]


def test_model_infer(call: Grpcurl) -> None:
    """Typed contents are understood, and the answer is raw with the id of the request."""
    response = answer(call, "ModelInfer", simple_request(1, 100, id="seven"))
    assert response["id"] == "seven"
    assert response["model_version"] == "1"
    got = outputs(response)
    row = np.arange(16, dtype=np.int32)
    np.testing.assert_array_equal(got["OUTPUT0"], [2 * (row + 1), 2 * (row + 100)])
    np.testing.assert_array_equal(got["OUTPUT1"], np.zeros((2, 16)))


def test_model_infer_bytes(call: Grpcurl) -> None:
    """BYTES come back with a length before each element."""
    elements = [b"one", b"", "\0\u00df".encode()]
    request = {
        "model_name": "identity_bytes",
        "inputs": [
            {
                "name": "X",
                "datatype": "BYTES",
                "shape": [1, 3],
                "contents": {"bytes_contents": [base64.b64encode(e).decode() for e in elements]},
            },
        ],
    }
    (raw,) = answer(call, "ModelInfer", request)["raw_output_contents"]
    wanted = b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    assert base64.b64decode(raw) == wanted


def test_model_stream_infer(call: Grpcurl) -> None:
    """A stream is answered in order, with an error in the place of a wrong request."""
    requests = [simple_request(index, id=str(index)) for index in range(5)]
    requests[2]["model_name"] = "absent"
    run = call(
        f"{SERVICE}/ModelStreamInfer",
        options=("-d", "@"),
        stdin="\n".join(json.dumps(request) for request in requests),
    )
    assert run.returncode == 0, run.stderr
    answers = documents(run.stdout)
    assert [a["infer_response"]["id"] for a in answers] == ["0", "1", "2", "3", "4"]
    assert [a.get("error_message") for a in answers] == [
        None,
        None,
        "Request for unknown model: 'absent' is not found",
        None,
        None,
    ]
    assert outputs(answers[4]["infer_response"])["OUTPUT0"][0, 0] == 8


def test_model_statistics(call: Grpcurl) -> None:
    """Statistics count what has been answered."""
    answer(call, "ModelInfer", simple_request(1))
    (stats,) = answer(call, "ModelStatistics", {"name": "simple"})["model_stats"]
    assert stats["version"] == "1"
    assert int(stats["inference_stats"]["success"]["count"]) > 0


def test_repository_index(call: Grpcurl) -> None:
    """The index names every model with its state."""
    models = answer(call, "RepositoryIndex", {})["models"]
    assert {"name": "simple", "version": "1", "state": "READY"} in models


def test_unknown_model(call: Grpcurl) -> None:
    """An unknown model is NOT_FOUND in Triton's words."""
    request = {**simple_request(1), "model_name": "absent"}
    run = call(f"{SERVICE}/ModelInfer", options=("-d", json.dumps(request)))
    assert run.returncode == NOT_FOUND
    assert "Message: Request for unknown model: 'absent' is not found\n" in run.stderr


def test_wrong_shape(call: Grpcurl) -> None:
    """A shape that is not the contents' is INVALID_ARGUMENT."""
    request = simple_request(1)
    request["inputs"][0]["shape"] = [1, 15]
    run = call(f"{SERVICE}/ModelInfer", options=("-d", json.dumps(request)))
    assert run.returncode == INVALID_ARGUMENT
    assert "'INPUT0'" in run.stderr


@pytest.mark.parametrize("service", ["", "simple"])
def test_health_check(call: Grpcurl, service: str) -> None:
    """The server and each model are SERVING for a health check."""
    request = json.dumps({"service": service})
    run = call("grpc.health.v1.Health/Check", options=("-d", request))
    assert documents(run.stdout) == [{"status": "SERVING"}], run.stderr


def test_health_check_of_an_unknown_service(call: Grpcurl) -> None:
    """A health check of what is not there is NOT_FOUND."""
    run = call("grpc.health.v1.Health/Check", options=("-d", '{"service": "absent"}'))
    assert run.returncode == NOT_FOUND, run.stderr


def test_health_watch(call: Grpcurl) -> None:
    """A watch says SERVING at once and then stays open until its deadline."""
    for deadline_s in ("0.5", "5", "30"):  # a slow machine may need longer to connect
        run = call("grpc.health.v1.Health/Watch", options=("-max-time", deadline_s))
        if run.stdout:
            break
    assert documents(run.stdout) == [{"status": "SERVING"}]
    assert "DeadlineExceeded" in run.stderr


def test_gzip(call: Grpcurl) -> None:
    """An answer may be asked for in gzip, and comes all the same."""
    request = json.dumps(simple_request(1))
    headers = ("-H", "grpc-accept-encoding: gzip")
    run = call(f"{SERVICE}/ModelInfer", options=("-d", request, *headers))
    assert outputs(documents(run.stdout)[0])["OUTPUT0"][0, 0] == 2, run.stderr
