"""Lint: a sound repository is clean, and each fault is told at its place with its level."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exporter.cli import main
from exporter.errors import UsageError
from exporter.linting import ERROR, WARNING, lint
from tests.support import forms, models
from tests.support.signed import write_keys
from tests.support.versions import publish_mlp


def _said(root: Path, **options: Any) -> list[tuple[str, str]]:
    return [(finding.level, str(finding)) for finding in lint(root, **options)]


def test_a_version_of_the_exporter_is_clean(tmp_path: Path) -> None:
    """What the exporter writes has nothing to complain of, with a config.pbtxt and labels too."""
    publish_mlp(tmp_path, labels=tuple("abcdefghij"), labels_of="Y", write_config=True)
    publish_mlp(tmp_path)
    assert _said(tmp_path) == []


def test_optional_inputs_are_those_with_a_default(tmp_path: Path) -> None:
    """config.pbtxt may name an input that has a default, as the server takes it."""
    config = (
        'max_batch_size: 4 input { name: "X" data_type: TYPE_FP32 dims: 1 } '
        'input { name: "D" data_type: TYPE_FP32 dims: 1 optional: true }'
    )
    models.publish(tmp_path, "m", forms.with_default(), config=config)
    models.publish(tmp_path, "typed", forms.optional_type())
    assert [text for level, text in _said(tmp_path) if level == ERROR] == []


def _flip_a_bit(version: Path) -> None:
    content = bytearray((version / "model.onnx").read_bytes())
    content[-5] ^= 1
    (version / "model.onnx").write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "level", "says"),
    [
        (_flip_a_bit, ERROR, "m/1: .*model.onnx: checksum mismatch"),
        (lambda v: (v / "golden.npz").unlink(), ERROR, "golden.npz: cannot be read"),
        (lambda v: (v / "manifest.json").write_text("{}"), ERROR, "not a manifest"),
        (lambda v: (v / "manifest.json").unlink(), WARNING, "has no manifest.json"),
        (lambda v: (v / "notes.txt").write_text(""), WARNING, "'notes.txt' is not listed"),
        (lambda v: (v / "model.onnx").chmod(0o600), WARNING, "cannot be read by other users"),
        (lambda v: (v / "model.onnx").chmod(0o666), WARNING, "can be written by anybody"),
        (lambda v: v.rename(v.parent / "2"), WARNING, "m/2: manifest.json is that of m/1"),
        (lambda v: (v.parent / ".tmp-x").mkdir(), WARNING, "left of an export"),
        (lambda v: (v.parent / "01").mkdir(), WARNING, "'01' is ignored"),
        (lambda v: (v.parent.parent / "a b").mkdir(), WARNING, "'a b' is ignored: no model's name"),
        (lambda v: (v.parent / "config.pbtxt").write_text("max: 1"), ERROR, "config.pbtxt:1"),
        (
            lambda v: (v.parent / "config.pbtxt").write_text(
                'output { name: "Y" data_type: TYPE_FP32 dims: [ -1, 10 ] label_filename: "l.txt" }'
            ),
            ERROR,
            "names the labels 'l.txt', which are not there",
        ),
        (
            lambda v: (v.parent / "config.pbtxt").write_text(
                'input { name: "Z" data_type: TYPE_FP32 dims: [ 784 ] }'
            ),
            ERROR,
            "input 'Z' is not in the graph",
        ),
    ],
)
def test_each_fault_is_told(
    tmp_path: Path, spoil: Callable[[Path], Any], level: str, says: str
) -> None:
    """The level says whether it is served, the text where it is and what is wrong."""
    version, _ = publish_mlp(tmp_path)
    spoil(version)
    import re

    found = _said(tmp_path)
    assert any(have == level and re.search(says, text) for have, text in found), found
    if level == WARNING:
        assert all(have == WARNING for have, _ in found)


def test_a_golden_pair_of_other_weights_is_found(tmp_path: Path) -> None:
    """The answers of a version are replayed: those of another model do not pass."""
    other, _ = publish_mlp(tmp_path / "a", seed=8)
    publish_mlp(tmp_path / "b", cases=_cases_of(other))
    assert [(level, "golden pair 0" in text) for level, text in _said(tmp_path / "b")] == [
        (ERROR, True)
    ]


def _cases_of(version: Path) -> list[Any]:
    from exporter.cases import Case
    from exporter.golden import read_golden

    return [Case(len(i["X"]), i, o) for i, o in read_golden(version / "golden.npz")]


def test_a_plain_repository_is_served_with_warnings(tmp_path: Path) -> None:
    """What no exporter made is served; that nothing vouches for it is said."""
    models.publish(tmp_path, "plain", models.mlp())
    models.publish(tmp_path, "fixed", models.fixed_batch())
    said = _said(tmp_path)
    assert {level for level, _ in said} == {WARNING}
    assert any("fixed/1: is served without batches" in text for _, text in said)
    assert any("plain/1: nothing proves that its rows" in text for _, text in said)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    """A file that cannot be parsed, or is not there, stops its version alone."""
    file = models.publish(tmp_path, "m", models.mlp())
    os.truncate(file, 1000)
    (tmp_path / "m" / "2").mkdir()
    said = [text for level, text in _said(tmp_path) if level == ERROR]
    assert len(said) == 2
    assert "m/1: " in said[0]
    assert "m/2: " in said[1]
    assert "no such file" in said[1]


def test_a_missing_signature_is_an_error(tmp_path: Path) -> None:
    """With a key, an unsigned version is refused, as the server would; a wrong key is usage."""
    _, public = write_keys(tmp_path)
    publish_mlp(tmp_path / "models")
    ((level, text),) = _said(tmp_path / "models", key=public)
    assert (level, "has no model.sig" in text) == (ERROR, True)
    with pytest.raises(UsageError, match="--key"):
        lint(tmp_path / "models", key=tmp_path / "none.pub")


def test_what_is_no_repository_is_one_error(tmp_path: Path) -> None:
    """A missing directory is told, not raised."""
    assert [level for level, _ in _said(tmp_path / "none")] == [ERROR]


@pytest.mark.parametrize(("strict", "code"), [(False, 0), (True, 1)])
def test_the_exit_code_counts_errors(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    strict: bool,  # noqa: FBT001 (a parameter of the test)
    code: int,
) -> None:
    """Warnings are told and pass; --strict fails for them too."""
    version, _ = publish_mlp(tmp_path)
    (version / "model.onnx").chmod(0o666)
    assert main(["lint", str(tmp_path), *(["--strict"] if strict else [])]) == code
    assert "0 errors, 1 warnings" in capsys.readouterr().out
