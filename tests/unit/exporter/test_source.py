"""SOURCE: finding and building the module."""

import sys
from pathlib import Path

import pytest
from torch import nn

from exporter.errors import UsageError
from exporter.source import load_source

_HERE = "tests.unit.exporter.modules"


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a SOURCE adds to the import path out of other tests."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def _write(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / f"{name}.py"
    path.write_text("import torch\nfrom torch import nn\n" + text)
    return str(path)


def test_a_class_in_a_module_is_built() -> None:
    """A class without required arguments is a builder."""
    source = load_source(f"{_HERE}:Classifier")
    assert type(source.module).__name__ == "Classifier"
    assert source.label == f"{_HERE}:Classifier"
    assert source.example_inputs is None


def test_a_file_is_imported_with_its_neighbours(tmp_path: Path) -> None:
    """FILE.py:NAME may import files beside it; its label names no directory."""
    _write(tmp_path, "neighbour_sizes", "WIDTH = 3\n")
    file = _write(
        tmp_path,
        "neighbourly",
        "from neighbour_sizes import WIDTH\ndef build(): return nn.Linear(WIDTH, 1)\n",
    )
    source = load_source(f"{file}:build")
    assert isinstance(source.module, nn.Linear)
    assert source.label == "neighbourly.py:build"


@pytest.mark.parametrize("form", ["def example_inputs(): return torch.ones(1, 2)",
                                  "example_inputs = torch.ones(1, 2)"])  # fmt: skip
def test_example_inputs_stand_beside_the_builder(tmp_path: Path, form: str) -> None:
    """A function or a value called example_inputs gives the examples."""
    file = _write(tmp_path, "exemplary", f"def build(): return nn.Linear(2, 1)\n{form}\n")
    assert tuple(load_source(f"{file}:build").example_inputs.shape) == (1, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model", "expected PACKAGE.MODULE:BUILDER"),
        (":build", "expected PACKAGE.MODULE:BUILDER"),
        ("model:", "expected PACKAGE.MODULE:BUILDER"),
        ("no.such.package:build", "no.such.package cannot be imported"),
        ("absent.py:build", "absent.py: no such file"),
        (f"{_HERE}:Clasifier", "has no 'Clasifier'; it has Branching, Classifier"),
        (f"{_HERE}:__doc__", "is a str, not a function or class"),
        ("tests.unit.exporter.modules:Fields", "missing a required argument: 'mean'"),
        ("collections:OrderedDict", "returned a OrderedDict, not a torch.nn.Module"),
    ],
)
def test_sources_that_build_nothing_are_refused(text: str, says: str) -> None:
    """The error says which part of SOURCE is wrong and what there is instead."""
    with pytest.raises(UsageError) as caught:
        load_source(text)
    assert says in str(caught.value)


def test_a_file_with_a_mistake_is_named(tmp_path: Path) -> None:
    """A syntax error in the user's file is the user's to see."""
    file = _write(tmp_path, "mistaken", "def build(:\n")
    with pytest.raises(UsageError, match=r"mistaken\.py cannot be imported"):
        load_source(f"{file}:build")
