"""The client alone: what its wheel holds, and that it runs with packages that are not ours."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import google.protobuf
import pytest

from tests.support import models
from tests.support.servers import ROOT, serve

_PROGRAM = """
import asyncio, sys, warnings
import google.protobuf, numpy as np
from service.client import AsyncClient, Client, NotFound
rows = [{"X": np.full((1, 784), number, np.float32)} for number in range(20)]
with Client(sys.argv[1]) as client:
    alone = [client.infer("mlp", row)["Y"] for row in rows]
    assert client.model_metadata("mlp").inputs[0].datatype == "FP32"
    try:
        client.infer("nope", rows[0])
        raise AssertionError
    except NotFound as error:
        assert error.model == "nope"
async def main():
    async with AsyncClient(sys.argv[1]) as client:
        return [answer.result()["Y"] async for answer in client.stream("mlp", rows)]
np.testing.assert_allclose(asyncio.run(main()), alone, rtol=1e-5)
assert "onnxruntime" not in sys.modules
print(google.protobuf.__version__)
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the client's wheel without the network and unpack it."""
    target = tmp_path_factory.mktemp("client")
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    run = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", target,
         ROOT / "clients" / "python-lib"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    (wheel,) = target.glob("penstock_client-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target / "site")
    return target / "site"


def test_the_client_comes_without_the_server(unpacked: Path) -> None:
    """The wheel has the client, the messages and what both need, and no cache."""
    assert {path.name for path in (unpacked / "service").iterdir()} == {
        "__init__.py", "client", "errors.py", "pb", "py.typed", "tensors.py",
    }  # fmt: skip
    assert not list(unpacked.rglob("__pycache__"))
    assert (unpacked / "service" / "client" / "LICENSE").exists()


def test_the_client_runs_with_another_protobuf_than_ours(unpacked: Path, tmp_path: Path) -> None:
    """In the environment of Triton's client, an older protobuf and no ONNX Runtime, it works."""
    python = ROOT / ".venv-clients" / "bin" / "python"
    if not python.exists() and not os.environ.get("CI"):
        pytest.skip(".venv-clients is not there: run `make tools`")
    models.publish(tmp_path / "models", "mlp", models.mlp())
    with serve(tmp_path / "models") as running:
        run = subprocess.run(
            [python, "-P", "-c", _PROGRAM, running.address],
            cwd=tmp_path, env={"PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() != google.protobuf.__version__
