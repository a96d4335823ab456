"""Diff and inspect: what changed between two versions, and what a file holds."""

import json
from pathlib import Path

import onnx
import pytest

from exporter.cli import main
from exporter.difference import compare_versions, diff
from exporter.errors import ConversionFailed, UsageError
from exporter.inspection import inspect
from tests.support.versions import publish_mlp


def test_equal_versions_differ_in_nothing(tmp_path: Path) -> None:
    """Two exports of the same model are equal in every respect."""
    first, second = (publish_mlp(tmp_path)[0] for _ in range(2))
    found = compare_versions(first, second)
    assert (found.signature, found.operators, found.metadata) == ((), {}, {})
    assert list(found.weights) == ["equal"]
    assert found.answers is not None
    assert [(a.output, a.max_abs, a.same_choice) for a in found.answers] == [("Y", 0.0, 1.0)]


def test_other_weights_are_seen_and_felt(tmp_path: Path) -> None:
    """Which weights changed, and how far the answers are on the golden inputs."""
    first, second = publish_mlp(tmp_path, seed=1)[0], publish_mlp(tmp_path, seed=2)[0]
    found = diff(first, second)
    assert "changed" in found.weights
    assert found.answers is not None
    assert found.answers[0].max_abs > 0.01
    assert found.size[0] == found.size[1]
    assert "answers on the golden inputs" in found.to_text()


def test_another_signature_and_other_operators_are_seen(tmp_path: Path) -> None:
    """Inputs, outputs and operators that came and went, and what the manifests say."""
    first = publish_mlp(tmp_path)[0]
    second = publish_mlp(tmp_path, batch_buckets=(4,))[0]
    model = onnx.load(str(second / "model.onnx"))
    model.graph.output[0].name = "Z"
    model.graph.node.append(onnx.helper.make_node("Neg", ["Y"], ["Z"]))
    onnx.save(model, str(second / "model.onnx"))
    found = compare_versions(first, second)
    assert found.signature == ("- output Y FLOAT[batch,10]", "+ output Z FLOAT[batch,10]")
    assert found.operators == {"Neg": (0, 1)}
    assert found.metadata["batch_buckets"] == ([], [4])
    assert found.answers == ()


def test_a_diff_is_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json stdout is JSON and nothing else."""
    publish_mlp(tmp_path, seed=1)
    publish_mlp(tmp_path, seed=2)
    assert main(["diff", str(tmp_path / "m"), "1", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["signature"] == []
    assert report["answers"][0]["output"] == "Y"


def test_what_is_no_version_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number that is not there, and a word for a number, are told."""
    path, _ = publish_mlp(tmp_path)
    with pytest.raises(UsageError, match="not a version"):
        diff(path, path.parent / "9")
    assert main(["diff", str(tmp_path / "m"), "1", "two"]) == 2
    assert "expected numbers of versions" in capsys.readouterr().err


def test_inspect_says_what_a_file_holds(tmp_path: Path) -> None:
    """Signature, operators, parameters, sizes, and a digest that is that of the weights."""
    path, manifest = publish_mlp(tmp_path)
    summary = inspect(path / "model.onnx")
    assert [str(end) for end in summary.inputs] == ["X FLOAT[batch,784]"]
    assert summary.parameters == 784 * 128 + 128 * 10
    assert summary.opsets[""] == manifest.opset
    assert sum(summary.operators.values()) > 0
    assert summary.leaks == 0
    other, _ = publish_mlp(tmp_path, seed=8)
    assert inspect(other / "model.onnx").weights_sha256 != summary.weights_sha256


def test_inspect_finds_what_a_file_gives_away(tmp_path: Path) -> None:
    """Paths of the machine that made a file are counted."""
    path, _ = publish_mlp(tmp_path)
    model = onnx.load(str(path / "model.onnx"))
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "trace", 'File "/home/me/secret/model.py", line 3'
    onnx.save(model, str(tmp_path / "leaky.onnx"))
    assert inspect(tmp_path / "leaky.onnx").leaks == 1


def test_inspect_refuses_what_is_no_onnx(tmp_path: Path) -> None:
    """A file of another kind is told as such."""
    (tmp_path / "x.onnx").write_bytes(b"\x00" * 64)
    with pytest.raises(ConversionFailed):
        inspect(tmp_path / "x.onnx")
