"""Doctor: what is there, what an extra would add, what stands in the way."""

import importlib.util
import json
from importlib import metadata

import pytest

from exporter.cli import main
from exporter.doctor import EXTRAS, diagnose


def test_what_is_installed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Versions, providers and extras, for people and for programs."""
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "ONNX Runtime runs on" in text
    assert "no problems found" in text
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["numpy"]
    assert report["extras"]["export"]["installed"] is True
    assert set(report["extras"]) == {name for name, _, _ in EXTRAS}


def test_a_missing_extra_says_what_it_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is named with what it is for; that is no problem in itself."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "skl2onnx" else find(name, *rest),
    )
    found = diagnose()
    missing = {name: lacks for name, _, lacks in found.extras}
    assert "skl2onnx" in missing["classical"]
    assert "lacks skl2onnx" in found.to_text()
    assert found.problems == ()


def test_two_runtimes_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Onnxruntime beside onnxruntime-gpu hides one of them: exit code 1, and what to do."""
    version = metadata.version
    monkeypatch.setattr(
        "importlib.metadata.version",
        lambda name: "1.32.0" if name.startswith("onnxruntime") else version(name),
    )
    assert main(["doctor"]) == 1
    assert "pip uninstall --yes onnxruntime" in capsys.readouterr().out
