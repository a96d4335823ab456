"""The built wheel, and not the source tree, serves a model."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.tensors import FP32
from tests.support import models, requests
from tests.support.servers import ROOT
from tests.support.stub import Stub

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
    model = tmp_path / "plus_two.onnx"
    model.write_bytes(models.add_constant(2.0))
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
    rows = np.array([[0.5], [-2]], np.float32)
    with grpc.insecure_channel(address) as channel:
        request = requests.raw_request("plus_two", requests.one(FP32, rows))
        response = Stub(channel).infer(request, timeout=_CALL_S)
    assert requests.answer(response).tolist() == [[2.5], [0]]
