"""The built wheel, and not the source tree, serves a model."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.pb import grpc_service_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent.parent
_READY_PREFIX = "penstock ready grpc="
_CALL_S = 20.0
_STOP_S = 30.0


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel without the network, with the hatchling that is installed."""
    target = tmp_path_factory.mktemp("wheel")
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    run = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", target, ROOT],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (path,) = target.glob("penstock-*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the wheel far from the source tree."""
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


@pytest.fixture
def address(unpacked: Path, tmp_path: Path) -> Iterator[str]:
    """Serve a bare model.onnx with the unpacked wheel at this HOST:PORT."""
    model = tmp_path / "double.onnx"
    onnx.save(_double(), model)
    # The wheel comes first on the path, so that an editable install does not shadow it.
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "service", "serve", model, "--port", "0", "--http-port", "0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        ready = server.stdout.readline()
        try:
            assert ready.startswith(_READY_PREFIX)
            yield ready.removeprefix(_READY_PREFIX).split()[0]
        finally:
            server.terminate()
            server.wait(timeout=_STOP_S)


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    """The wheel has service, exporter, their stubs and metadata: no tests, no caches."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {
        "service",
        "exporter",
    }
    assert "service/pb/grpc_service_pb2.py" in names
    assert not [name for name in names if "__pycache__" in name]
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


def test_wheel_is_what_runs(unpacked: Path, tmp_path: Path) -> None:
    """With the wheel on the path, the packages come from it and not from the source tree."""
    run = subprocess.run(
        [sys.executable, "-P", "-c", "import service, exporter; print(service.__file__)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(unpacked / "service" / "__init__.py")


def test_wheel_serves_a_model(address: str) -> None:
    """A server that runs from the wheel answers a request over gRPC."""
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    request = pb.ModelInferRequest(model_name="double", raw_input_contents=[rows.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=rows.shape)
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        response = infer(request, timeout=_CALL_S)
    got = np.frombuffer(response.raw_output_contents[0], np.float32)
    np.testing.assert_array_equal(got, 2 * rows.ravel())


def _double() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
