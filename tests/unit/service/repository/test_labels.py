"""Label files: read from where they belong, and refused with file and reason."""

from pathlib import Path

import pytest
from google.protobuf import text_format

from service.errors import ConfigError
from service.pb.model_config_pb2 import ModelConfig
from service.repository.labels import Labels, read_labels
from service.repository.manifest import Manifest


def config(name: str) -> ModelConfig:
    """Return a configuration whose output Y has its labels in that file."""
    entry = ModelConfig()
    entry.output.add(name="Y", label_filename=name)
    return text_format.Parse(text_format.MessageToString(entry), ModelConfig())


def manifest(**labels: str) -> Manifest:
    """Return a manifest with files of labels, by output."""
    return Manifest("m", 1, (), (), 0, 21, {}, labels=labels)


def read(model: Path, name: str = "", listed: Manifest | None = None) -> Labels:
    """Return the labels of version 1 of a model."""
    (model / "1").mkdir(exist_ok=True)
    return read_labels(model, model / "1", config(name) if name else None, listed)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("cat\ndog\n", ("cat", "dog")),
        ("cat\r\ndog", ("cat", "dog")),
        ("cat\n\ndog\n", ("cat", "", "dog")),
        ("Katze\u00a0é\n", ("Katze\u00a0é",)),
        ("", ()),
        ("\n", ("",)),
    ],
)
def test_a_line_is_a_label(tmp_path: Path, text: str, labels: tuple[str, ...]) -> None:
    """Each line is one label, whatever ends it; an empty one keeps its place."""
    (tmp_path / "labels.txt").write_bytes(text.encode())
    assert read(tmp_path, "labels.txt") == {"Y": labels}


def test_no_labels_are_no_error(tmp_path: Path) -> None:
    """Without a configuration and a manifest there are none."""
    assert read(tmp_path) == {}


def test_a_version_has_labels_of_its_own(tmp_path: Path) -> None:
    """What the manifest lists lies in the version, also if config.pbtxt has a file of that name."""
    read(tmp_path)
    (tmp_path / "labels.txt").write_text("old\n")
    (tmp_path / "other.txt").write_text("other\n")
    (tmp_path / "1" / "labels.txt").write_text("new\n")
    assert read(tmp_path, "", manifest(Y="labels.txt")) == {"Y": ("new",)}
    assert read(tmp_path, "labels.txt", manifest(Y="labels.txt")) == {"Y": ("new",)}
    assert read(tmp_path, "other.txt", manifest(Y="labels.txt")) == {"Y": ("other",)}


def test_a_file_may_lie_in_a_directory_of_the_model(tmp_path: Path) -> None:
    """A path inside the model's directory is good, and so is a link to such a file."""
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "labels.txt").write_text("cat\n")
    (tmp_path / "link").symlink_to("more/labels.txt")
    assert read(tmp_path, "more/labels.txt") == read(tmp_path, "link") == {"Y": ("cat",)}


@pytest.mark.parametrize("name", ["../absent", "/absent", "../model/../absent"])
def test_what_lies_elsewhere_is_not_looked_for(tmp_path: Path, name: str) -> None:
    """The refusal is the same whether there is a file or not."""
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match=r"labels of output 'Y': expected a file inside"):
        read(tmp_path / "model", name)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link", "1/../../secret", "."])
def test_other_files_are_not_read(tmp_path: Path, name: str) -> None:
    """Neither a path nor a link leads out of the model's directory; a directory is no file."""
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "secret").write_text("secret\n")
    (model / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match=r"labels of output 'Y': (expected a file inside|cannot)"):
        read(model, name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "labels of output 'Y': cannot be read: No such file"),
        (b"cat\n\xff\n", "not UTF-8 text at byte 4"),
        (b"cat\n" + b"x" * 1025, "line 2 has 1025 characters, at most 1024"),
        (b"x\n" * (9 << 20), "larger than 16777216 bytes"),
    ],
    ids=["missing", "not UTF-8", "long line", "large"],
)
def test_unusable_files_are_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """The error names the file, the output and what is wrong."""
    if content is not None:
        (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "labels.txt")
    assert str(tmp_path / "labels.txt") in str(caught.value)
    assert reason in str(caught.value)


def test_name_with_nul_is_refused(tmp_path: Path) -> None:
    """A name that no file can have is an error like any other."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path, "labels\0.txt")
