"""Python models as any other: metadata, configuration, bytes, parameters, failures, loading."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
)
from service.tensors import BYTES, FP32, INT32
from tests.integration.conftest import Serve
from tests.integration.control.conftest import Controlled
from tests.support import python_models
from tests.support.python_requests import FOR_EVER_MS
from tests.support.requests import answer, one, raw_request
from tests.support.servers import RunningServer, run_serve
from tests.support.stub import WAIT_S, Stub, refusal
from tests.support.waiting import eventually

CONSTANT = """
import numpy as np

class Model:
    def __init__(self, context):
        self.value = {value}

    def infer(self, request):
        return {{"Y": np.array([self.value], np.int32)}}
"""


def ask(model: str, value: int = 1) -> ModelInferRequest:
    """Return a request to a model of python_models.publish."""
    return raw_request(model, one(INT32, np.array([value], np.int32)))


def delayed(delay_ms: int) -> ModelInferRequest:
    """Return a request that custom_identity_int32 answers after so long."""
    request = raw_request("custom_identity_int32", one(INT32, np.ones((2, 3), np.int32), "INPUT0"))
    request.parameters["execute_delay_ms"].int64_param = delay_ms
    return request


def test_arbitrary_bytes_stay_what_they_are(python_stub: Stub) -> None:
    """BYTES are not text to a Python model."""
    elements = [b"", b"\x00", b"a\x00", b"\xff\xfe", "é".encode(), bytes(range(256))]
    array = np.empty((1, len(elements)), object)
    array[0, :] = elements
    request = raw_request("simple_identity", one(BYTES, array, "INPUT0"))
    got = answer(python_stub.infer(request, timeout=WAIT_S), "OUTPUT0")
    assert got.tolist() == [elements]


def test_parameters_reach_the_model(python_stub: Stub) -> None:
    """The caller's own do, in their types; the protocol's do not."""
    request = raw_request("parameter", one(FP32, np.zeros(1, np.float32), "INPUT0"))
    request.parameters["text"].string_param = "é"
    request.parameters["flag"].bool_param = True
    request.parameters["count"].int64_param = -5
    request.parameters["priority"].uint64_param = 1
    response = python_stub.infer(request, timeout=WAIT_S)
    assert answer(response, "key").tolist() == [b"count", b"flag", b"text"]
    assert answer(response, "value").tolist() == [b"-5", b"True", "é".encode()]


def test_metadata_and_configuration(python_stub: Stub) -> None:
    """They say what config.pbtxt says, completed, and name the backend."""
    request = ModelMetadataRequest(name="repeat_int32")
    metadata = python_stub.model_metadata(request, timeout=WAIT_S)
    assert (metadata.platform, list(metadata.versions)) == ("python", ["1"])
    inputs = [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs]
    assert inputs == [("IN", "INT32", [-1]), ("DELAY", "UINT32", [-1]), ("WAIT", "UINT32", [1])]
    get = python_stub.channel.unary_unary(
        "/inference.GRPCInferenceService/ModelConfig",
        ModelConfigRequest.SerializeToString,
        ModelConfigResponse.FromString,
    )
    config = get(ModelConfigRequest(name="repeat_int32"), timeout=WAIT_S).config
    assert (config.backend, config.platform, config.default_model_filename) == (
        "python",
        "",
        "model.py",
    )
    assert config.model_transaction_policy.decoupled
    assert [(group.count, group.kind) for group in config.instance_group] == [(4, 2)]
    assert config.WhichOneof("scheduling_choice") is None
    batched = get(ModelConfigRequest(name="simple_identity"), timeout=WAIT_S).config
    assert (batched.max_batch_size, batched.WhichOneof("scheduling_choice")) == (8, None)
    assert python_stub.model_ready(ModelReadyRequest(name="repeat_int32"), timeout=WAIT_S).ready


def test_requests_have_at_most_max_batch_size_rows(python_stub: Stub) -> None:
    """A Python model gets a request as it is, so one that is too large is refused."""
    array = np.full((9, 1), b"x", object)
    request = raw_request("simple_identity", one(BYTES, array, "INPUT0"))
    assert refusal(python_stub.infer, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "inference request batch-size must be <= 8 for 'simple_identity'",
    )


def test_cancelling_a_unary_call_frees_the_model(
    python_server: RunningServer, python_stub: Stub
) -> None:
    """A model that sleeps by the request stops at once, and serves the next caller."""
    future = python_stub.infer.future(delayed(FOR_EVER_MS), timeout=WAIT_S)
    eventually(lambda: python_server.runs("custom_identity_int32"), "the model runs")
    future.cancel()
    eventually(lambda: not python_server.runs("custom_identity_int32"), "the model is free")
    response = python_stub.infer(delayed(0), timeout=WAIT_S)
    assert answer(response, "OUTPUT0").tolist() == [[1, 1, 1], [1, 1, 1]]


def test_a_failing_model_is_internal_with_an_id(
    python_server: RunningServer, python_stub: Stub
) -> None:
    """The caller learns nothing but the id; the log has the exception with its line."""
    request = raw_request("execute_grpc_error", one(FP32, np.ones((1, 2), np.float32), "IN"))
    results = []
    for _ in range(2):
        try:
            results.append(answer(python_stub.infer(request, timeout=WAIT_S), "OUT").tolist())
        except grpc.RpcError as error:
            results.append((error.code(), error.details()))
    results.remove([[1.0, 1.0]])
    ((code, text),) = results
    assert code is grpc.StatusCode.INTERNAL
    found = re.fullmatch(
        r"inference failed for model 'execute_grpc_error' \(error id (\w+)\)", text
    )
    assert found is not None
    log = python_server.log.read_text()
    assert f"(error id {found[1]})" in log
    assert "RuntimeError: An error occurred during execution" in log


def test_without_the_flag_no_code_runs(tmp_path: Path) -> None:
    """The refusal names the file and the flag, and model.py has not been imported."""
    marker = tmp_path / "ran"
    path = python_models.publish(tmp_path / "models", "m", f"open({str(marker)!r}, 'w')")
    run = run_serve(str(tmp_path / "models"), "--port", "0", "--http-port", "0")
    assert run.returncode != 0
    assert f"{path}: backend 'python' runs this file as part of the server, which is off; " in (
        run.stderr
    )
    assert "--allow-python-backend" in run.stderr
    assert not marker.exists()


@pytest.fixture
def controlled(tmp_path: Path, serve: Serve) -> Iterator[Controlled]:
    """Serve an empty repository whose models, Python too, callers load and unload."""
    root = tmp_path / "models"
    root.mkdir()
    flags = ("--model-control", "explicit", "--allow-python-backend")
    with serve(root, *flags) as server, server.stub() as stub:
        yield Controlled(server, stub, root)


def test_versions_are_loaded_swapped_and_unloaded(controlled: Controlled) -> None:
    """A changed file of a new version is what answers, and nothing of the old one is left."""
    for version in (1, 2):
        code = CONSTANT.format(value=version)
        python_models.publish(controlled.root, "m", code, version=version)
        controlled.load("m")
        response = controlled.stub.infer(ask("m"), timeout=WAIT_S)
        assert response.model_version == str(version)
        assert answer(response).tolist() == [version]
    controlled.unload("m")
    assert refusal(controlled.stub.infer, ask("m"))[0] is not grpc.StatusCode.OK
    controlled.load("m")
    assert answer(controlled.stub.infer(ask("m"), timeout=WAIT_S)).tolist() == [2]


def test_outputs_may_be_classified(controlled: Controlled) -> None:
    """The label file of config.pbtxt holds for a Python model's output too."""
    code = CONSTANT.format(value=1).replace("[self.value]", "[3, 9, 5]")
    python_models.publish(controlled.root, "m", code)
    config = controlled.root / "m" / "config.pbtxt"
    config.write_text(config.read_text().replace('"Y"', '"Y" label_filename: "labels.txt"'))
    (controlled.root / "m" / "labels.txt").write_text("a\nb\nc\n")
    controlled.load("m")
    request = ask("m")
    output = request.outputs.add(name="Y")
    output.parameters["classification"].int64_param = 2
    response = controlled.stub.infer(request, timeout=WAIT_S)
    assert answer(response).reshape(-1).tolist() == [b"9:1:b", b"5:2:c"]


def test_code_of_a_load_request_is_not_run(controlled: Controlled) -> None:
    """Callers may send graphs where model control is on, but never code."""
    config = {
        "backend": "python",
        "input": [{"name": "X", "data_type": "TYPE_INT32", "dims": [-1]}],
        "output": [{"name": "Y", "data_type": "TYPE_INT32", "dims": [-1]}],
    }
    marker = controlled.root / "ran"
    code = f"open({str(marker)!r}, 'w')\n{CONSTANT.format(value=1)}".encode()
    status, _ = controlled.refused("m", json.dumps(config), {"1/model.py": code})
    assert status is grpc.StatusCode.INTERNAL
    assert "code that runs in this process is not taken from callers" in (
        controlled.server.log.read_text()
    )
    assert not marker.exists()


BROKEN = {
    "1 / 0": "ZeroDivisionError: division by zero (model.py, line 1)",
    "class Model: ...": "its class Model has no method infer(self, request)",
    "class Model:\n    def infer(self, request): ...\n": (
        "Model cannot be made: TypeError: Model() takes no arguments"
    ),
}


def test_a_model_that_cannot_be_loaded_says_why(controlled: Controlled) -> None:
    """The caller of the load is told, and the index has the reason."""
    for number, (code, reason) in enumerate(BROKEN.items()):
        name = f"m{number}"
        python_models.publish(controlled.root, name, code)
        _, text = controlled.refused(name)
        assert reason in text
        states = {entry[0]: entry[2:] for entry in controlled.index()}
        state, said = states[name]
        assert state == "UNAVAILABLE"
        assert reason in said
