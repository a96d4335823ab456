"""Borders of the packages, and the size of their modules."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
_MOST_LINES = 400
_PACKAGES = ("service", "exporter")
_MODULES = sorted(
    path.relative_to(ROOT)
    for package in _PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if not path.name.endswith("_pb2.py")
)


def test_layers_hold() -> None:
    """Every import-linter contract of pyproject.toml is kept."""
    linter = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " 0 broken" in run.stdout


@pytest.mark.parametrize("module", _MODULES, ids=str)
def test_module_fits_in_the_head(module: Path) -> None:
    """A module has at most 400 lines and says at its top what it does."""
    text = (ROOT / module).read_text()
    assert len(text.splitlines()) <= _MOST_LINES
    assert text.startswith(('"""', "#!"))


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("service", ["onnxruntime", "grpc", "numpy", "torch", "onnx"]),
        ("service.cli", ["onnxruntime", "grpc", "torch", "onnx"]),
        ("service.client", ["onnxruntime", "prometheus_client", "service.rpc", "service.config"]),
        ("service.app.server", ["grpc", "torch", "onnx"]),
        ("service.inference.scheduler", ["onnxruntime", "grpc", "torch", "onnx"]),
        ("service.rpc.dispatch", ["onnxruntime", "grpc", "torch", "onnx"]),
    ],
)
def test_import_brings_no_more_than_it_needs(package: str, absent: list[str]) -> None:
    """What a package does not need is not in memory after its import."""
    program = f"import sys, {package}; print([m for m in {absent!r} if m in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
