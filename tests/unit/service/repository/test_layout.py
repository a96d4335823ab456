"""Where models are found, and what is no model and no version."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import RepositoryError
from service.repository.layout import Repository
from service.repository.names import is_model_name, parse_version


def touch(path: Path) -> Path:
    """Make a file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def found(path: Path, name: str = "") -> dict[str, list[int]]:
    """Return the versions of each model that a scan finds."""
    return {
        source.name: [version.version for version in source.versions]
        for source in Repository(path, name).scan()
    }


def test_repository_of_several_models(tmp_path: Path) -> None:
    """Directories are models, decimal ones below them are versions in numerical order."""
    for name in ("b/1", "b/10", "b/9", "a/3"):
        touch(tmp_path / name / "model.onnx")
    touch(tmp_path / "b" / "config.pbtxt")
    touch(tmp_path / "README")
    assert found(tmp_path) == {"a": [3], "b": [1, 9, 10]}


@pytest.mark.parametrize("name", ["01", "0", "-1", "1a", ".tmp-2", "٣", "1" * 19, "2.onnx"])
def test_what_is_no_version_is_ignored(tmp_path: Path, name: str) -> None:
    """Only decimal numbers without leading zeros are versions."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / "m" / name / "model.onnx")
    assert found(tmp_path) == {"m": [1]}


@pytest.mark.parametrize("name", [".git", "a b", "größe", "x" * 129, "-m", "a\nb"])
def test_what_is_no_model_name_is_ignored(tmp_path: Path, name: str) -> None:
    """Directories whose name cannot name a model are not models."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / name / "1" / "model.onnx")
    assert found(tmp_path) == {"m": [1]}


def test_file_where_a_version_should_be(tmp_path: Path) -> None:
    """A file that is named like a version is none."""
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / "m" / "2")
    assert found(tmp_path) == {"m": [1]}


def test_directory_of_one_model(tmp_path: Path) -> None:
    """A directory with versions in it is one model, by its own name or a given one."""
    touch(tmp_path / "digits" / "4" / "model.onnx")
    assert found(tmp_path / "digits") == {"digits": [4]}
    assert found(tmp_path / "digits", "other") == {"other": [4]}


def test_directory_of_one_version(tmp_path: Path) -> None:
    """A directory with model.onnx in it is version 1 of one model."""
    touch(tmp_path / "digits" / "model.onnx")
    assert found(tmp_path / "digits") == {"digits": [1]}


def test_single_file(tmp_path: Path) -> None:
    """A file is version 1 of a model of its name."""
    path = touch(tmp_path / "net.onnx")
    (source,) = Repository(path).scan()
    (version,) = source.versions
    assert (source.name, version.version, version.model_file()) == ("net", 1, path)


def test_relative_path_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current directory is named as the directory it is."""
    touch(tmp_path / "digits" / "model.onnx")
    monkeypatch.chdir(tmp_path / "digits")
    assert found(Path()) == {"digits": [1]}


def test_name_that_cannot_be_used(tmp_path: Path) -> None:
    """A file whose name cannot name a model asks for --model-name."""
    path = touch(tmp_path / "my model.onnx")
    with pytest.raises(RepositoryError, match=r"'my model' cannot name a model.*--model-name"):
        Repository(path).scan()
    assert found(path, "mine") == {"mine": [1]}


def test_default_model_filename(tmp_path: Path) -> None:
    """The configured name is used, and a directory of that name holds a file of that name."""
    touch(tmp_path / "m" / "1" / "net.onnx")
    (source,) = Repository(tmp_path).scan()
    version = source.versions[0]
    assert version.model_file("net.onnx") == tmp_path / "m" / "1" / "net.onnx"
    inner = touch(tmp_path / "n" / "1" / "model.onnx" / "model.onnx")
    assert Repository(tmp_path).scan()[1].versions[0].model_file() == inner


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_to_serve(tmp_path: Path, exists: bool) -> None:  # noqa: FBT001  a column
    """An empty or missing path is an error that says what is expected there."""
    path = tmp_path if exists else tmp_path / "none"
    with pytest.raises(RepositoryError, match=r"expected a repository \(MODEL/VERSION/model.onnx"):
        Repository(path).scan()


def test_unreadable_directory(tmp_path: Path) -> None:
    """A directory that may not be read is an error that names it."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    tmp_path.chmod(0)
    try:
        with pytest.raises(RepositoryError, match="cannot be read: Permission denied"):
            Repository(tmp_path).scan()
    finally:
        tmp_path.chmod(0o700)


@given(st.text(max_size=30))
def test_versions_are_canonical(text: str) -> None:
    """Whatever is a version is written as that number is."""
    number = parse_version(text)
    assert number is None or (str(number) == text and number >= 1)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../x", "a\\b", "\0", "a\n", " a", "é"])
def test_names_that_leave_the_repository_are_no_names(name: str) -> None:
    """No model name is a path."""
    assert not is_model_name(name)


@pytest.mark.parametrize("name", ["a", "resnet-50.v2_int8", "0", "_x", "x" * 128])
def test_names_that_are_good(name: str) -> None:
    """Letters, digits, '_', '-' and '.' make a name."""
    assert is_model_name(name)
