"""Points at which naive servers fail, and that no other test holds; see docs/naive-servers.md."""

import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import helper

from service.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from service.tensors import FP32, INT32
from tests.integration.conftest import TRANSPORTS, Serve
from tests.support import models, servers
from tests.support.requests import answer, raw_request
from tests.support.shared import register, segment
from tests.support.stub import WAIT_S, refusal
from tests.support.waiting import eventually

_CONFIG = """
backend: "python"
input { name: "X" data_type: TYPE_INT32 dims: 1 }
output { name: "Y" data_type: TYPE_INT32 dims: 1 }
"""
_WAITS_FOR_A_FILE = """
import time
from pathlib import Path

class Model:
    def __init__(self, context):
        Path({begun!r}).touch()
        while not Path({go!r}).exists():
            time.sleep(0.005)

    def infer(self, request):
        return {{"Y": request.inputs["X"]}}
"""
_FAILS = """
from service.python_backend import InvalidInput

class Model:
    def __init__(self, context):
        pass

    def infer(self, request):
        value = int(request.inputs["X"][0])
        raise InvalidInput("" if value == 0 else "\\N{SNOWMAN}" * 100_000)
"""


def publish_python(root: Path, name: str, code: str) -> None:
    """Write a model that is code."""
    directory = root / name / "1"
    directory.mkdir(parents=True)
    (directory / "model.py").write_text(code)
    (root / name / "config.pbtxt").write_text(_CONFIG)


def test_names_of_tensors_are_free(tmp_path: Path, serve: Serve) -> None:
    """Names with colons and slashes, as TensorFlow gives them, are served like others."""
    given, result = "input:0", "InceptionV3/Predictions/Softmax:0"
    shape = ("batch", 2)
    node = helper.make_node("Identity", [given], [result])
    graph = models.onnx_model([node], [(given, FP32, shape)], [(result, FP32, shape)])
    models.publish(tmp_path, "named", graph)
    values = np.array([[1, 2]], np.float32)
    with serve(tmp_path) as server, server.stub() as stub:
        request = raw_request("named", {given: (FP32, values)}, outputs=[result])
        response = stub.infer(request, timeout=WAIT_S)
        np.testing.assert_array_equal(answer(response, result), values)


def test_errors_always_say_something(tmp_path: Path, serve: Serve) -> None:
    """Whatever a model raises, its error has a text, and one that fits into a header."""
    publish_python(tmp_path, "fails", _FAILS)
    with serve(tmp_path, "--allow-python-backend") as server, server.stub() as stub:
        for value in (0, 1):
            request = raw_request("fails", {"X": (INT32, np.array([value], np.int32))})
            code, text = refusal(stub.infer, request)
            assert code is grpc.StatusCode.INVALID_ARGUMENT
            assert 0 < len(text.encode()) < 8192
            (streamed,) = stub.stream(iter([request]), timeout=WAIT_S)
            assert streamed.error_message
            assert not streamed.infer_response.outputs


def test_segments_outlive_the_server(tmp_path: Path, serve: Serve) -> None:
    """A segment that a client has registered is still there when the server has ended."""
    models.publish(tmp_path, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    with segment(64) as made:
        with serve(tmp_path, "--allow-client-shm") as server, server.stub() as stub:
            register(stub, "kept", made.key, 64)
        assert made.path.exists()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nothing_is_serving_before_its_models_are(tmp_path: Path, transport: str) -> None:
    """While a model is being made, no health check says SERVING; when it is ready, it does."""
    begun, go, socket = (tmp_path / name for name in ("begun", "go", "socket"))
    code = _WAITS_FOR_A_FILE.format(begun=str(begun), go=str(go))
    publish_python(tmp_path / "models", "waits", code)
    command = [sys.executable, "-m", "service", "serve", str(tmp_path / "models"), "--port", "0"]
    command += ["--http-port", "0", "--unix-socket", str(socket), "--drain-delay", "0"]
    command += ["--allow-python-backend", "--transport", transport]
    with subprocess.Popen(
        command, cwd=servers.ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            eventually(begun.exists, "the model is being made")
            assert not is_serving(socket)
            go.touch()
            assert process.stdout is not None
            assert process.stdout.readline().startswith("penstock ready ")
            assert is_serving(socket)
        finally:
            process.terminate()
        assert process.wait(WAIT_S) == 0


def is_serving(socket: Path) -> bool:
    """Ask for the health of a server; one that cannot be reached is not serving."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            HealthCheckRequest.SerializeToString,
            HealthCheckResponse.FromString,
        )
        try:
            told = check(HealthCheckRequest(), timeout=WAIT_S)
        except grpc.RpcError:
            return False
    return bool(told.status == HealthCheckResponse.SERVING)
