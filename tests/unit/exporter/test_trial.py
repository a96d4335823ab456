"""The first load of an exported file, in a process that may crash."""

import sys
from pathlib import Path

import pytest

from exporter.errors import ConversionFailed
from exporter.trial import try_loading
from tests.support.models import mlp


def _interpreter(tmp_path: Path, program: str) -> str:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    return str(path)


def test_a_load_that_crashes_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that dies of a signal is reported by the signal's name."""
    monkeypatch.setattr(sys, "executable", _interpreter(tmp_path, "kill -SEGV $$"))
    with pytest.raises(ConversionFailed, match=r"crashed \(SIGSEGV\)"):
        try_loading(tmp_path / "model.onnx")


def test_the_child_loads_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child runs is a load: it succeeds for a model and fails for anything else."""
    real, codes = sys.executable, tmp_path / "codes"
    script = f'"{real}" "$@"; code=$?; echo $code >> "{codes}"; exit $code'
    monkeypatch.setattr(sys, "executable", _interpreter(tmp_path, script))
    (tmp_path / "good.onnx").write_bytes(mlp())
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for name in ("good.onnx", "bad.onnx"):
        try_loading(tmp_path / name)
    assert codes.read_text().split() == ["0", "1"]
