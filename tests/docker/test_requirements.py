"""What the image installs, as tools/image_requirements.py prints it for the Dockerfile."""

import subprocess
import sys

import pytest

from tests.support.servers import ROOT


def requirements(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "image_requirements.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def runtimes(lines: str) -> list[str]:
    """Return the requirements that bring ONNX Runtime."""
    return [line for line in lines.splitlines() if line.startswith("onnxruntime")]


def test_cpu_image() -> None:
    """The CPU image installs the server's dependencies, and with them onnxruntime."""
    lines = requirements("cpu").stdout
    assert [line.split(">")[0] for line in runtimes(lines)] == ["onnxruntime"]
    assert "grpcio>=" in lines


def test_gpu_image() -> None:
    """The GPU image installs onnxruntime-gpu with CUDA in place of onnxruntime, else the same."""
    cpu, gpu = requirements("cpu").stdout, requirements("gpu").stdout
    assert [line.split(">")[0] for line in runtimes(gpu)] == ["onnxruntime-gpu[cuda,cudnn]"]
    assert set(gpu.splitlines()) - set(runtimes(gpu)) == set(cpu.splitlines()) - set(runtimes(cpu))


@pytest.mark.parametrize("arguments", [(), ("tpu",), ("cpu", "gpu")])
def test_wrong_argument(arguments: tuple[str, ...]) -> None:
    """Anything but one known runtime ends the build and names the build argument."""
    run = requirements(*arguments)
    assert run.returncode == 1
    assert "RUNTIME" in run.stderr
