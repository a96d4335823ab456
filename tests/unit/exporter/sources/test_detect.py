"""Which kind of source something is."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from torch import nn

from exporter.errors import UsageError
from exporter.sources.base import Request
from exporter.sources.detect import kind_of_object, kind_of_text, label_of
from tests.support.servers import ROOT


def test_python_is_known_by_its_form() -> None:
    """A module or file with a name behind a colon is the user's code."""
    for text in ("pkg.mod:build", "file.py:Class", "dir/file.py:build(width=3, name='a:b')"):
        assert kind_of_text(text).name == "model in Python"


def test_files_are_known_by_their_suffix(tmp_path: Path) -> None:
    """A file that exists is what its name says; nothing is loaded to find out."""
    for name, kind in (("m.onnx", "file in ONNX"), ("m.pt2", "torch.export program"),
                       ("m.PT", "PyTorch file")):  # fmt: skip
        (tmp_path / name).touch()
        assert kind == kind_of_text(str(tmp_path / name)).name


def test_objects_are_known_by_their_class() -> None:
    """Subclasses are what their base is."""
    assert kind_of_object(nn.Linear(1, 1)).name == "PyTorch module"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("https://host/m.onnx", "downloads nothing"),
        ("hf://org/model", "downloads nothing"),
        ("absent.onnx", "no such file"),
        ("models/absent", "no such file"),
        ("", "or the path of a model: .onnx"),
        ("a:b:c", "or the path of a model"),
    ],
)
def test_what_is_no_source_is_refused(text: str, says: str) -> None:
    """The message says what would be one."""
    with pytest.raises(UsageError) as caught:
        kind_of_text(text)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("w.safetensors", "holds weights alone"),
        ("s.npz", "--sample with this file"),
        ("m.tar.gz", "unpack it first"),
        ("m.doc", "expected .onnx"),
    ],
)
def test_files_that_are_no_models_are_refused(tmp_path: Path, name: str, says: str) -> None:
    """What the file is for, if it is for something, is said."""
    (tmp_path / name).touch()
    with pytest.raises(UsageError) as caught:
        kind_of_text(str(tmp_path / name))
    assert says in str(caught.value)


def test_labels_name_no_directory() -> None:
    """What goes into manifests says nothing of this machine."""
    assert label_of("/home/me/model.py:build(n=1)") == "model.py:build(n=1)"
    assert label_of("/home/me/model.onnx") == "model.onnx"
    assert label_of("pkg.mod:build") == "pkg.mod:build"


@pytest.mark.parametrize(
    ("source", "extra"),
    [("m.onnx", "export"), ("m.pt", "export"), ("m.keras", "tensorflow"), ("m.json", "classical")],
)
def test_what_a_kind_misses_is_said_with_its_extra(
    source: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says which package is missing, and how to get it."""
    (tmp_path / source).touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    kind = kind_of_text(str(tmp_path / source))
    with pytest.raises(UsageError, match=rf"is not installed.*pip install 'penstock\[{extra}\]'"):
        kind.check(Request(source))


def test_the_command_loads_no_framework_to_find_out() -> None:
    """What a source is, is known before anything heavy is imported."""
    program = (
        "import sys; from exporter.sources.detect import kind_of_text, kind_of_object\n"
        "import exporter.sources\n"
        "kind_of_text('model.py:build'); open('m.pt', 'w').close(); kind_of_text('m.pt')\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    with TemporaryDirectory() as directory:
        loaded = subprocess.run(
            [sys.executable, "-c", program], cwd=directory, check=True, capture_output=True,
            text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        ).stdout.split()  # fmt: skip
    assert "exporter" in loaded
    assert not {"torch", "onnx", "onnxruntime", "keras", "sklearn", "transformers"} & set(loaded)
