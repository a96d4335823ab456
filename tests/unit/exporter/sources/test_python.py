"""SOURCE as the user's own code: finding and building the model."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from exporter.errors import UsageError
from exporter.sources.detect import kind_of_object, kind_of_text, label_of
from exporter.sources.python import build

_HERE = "tests.unit.exporter.modules"


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a SOURCE adds to the import path out of other tests."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def _built(text: str) -> None:
    kind_of_text(text)
    kind_of_object(build(text).model, text)


def _write(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / f"{name}.py"
    path.write_text("import torch\nfrom torch import nn\n" + text)
    return str(path)


def test_a_class_in_a_module_is_built() -> None:
    """A class without required arguments is a builder."""
    built = build(f"{_HERE}:Classifier")
    assert type(built.model).__name__ == "Classifier"
    assert built.example_inputs is None
    assert label_of(f"{_HERE}:Classifier") == f"{_HERE}:Classifier"


def test_a_file_is_imported_with_its_neighbours(tmp_path: Path) -> None:
    """FILE.py:NAME may import files beside it; its label names no directory."""
    _write(tmp_path, "neighbour_sizes", "WIDTH = 3\n")
    file = _write(
        tmp_path,
        "neighbourly",
        "from neighbour_sizes import WIDTH\ndef build(): return nn.Linear(WIDTH, 1)\n",
    )
    assert isinstance(build(f"{file}:build").model, nn.Linear)
    assert label_of(f"{file}:build") == "neighbourly.py:build"


@pytest.mark.parametrize("form", ["def example_inputs(): return torch.ones(1, 2)",
                                  "example_inputs = torch.ones(1, 2)"])  # fmt: skip
def test_example_inputs_stand_beside_the_builder(tmp_path: Path, form: str) -> None:
    """A function or a value called example_inputs gives the examples."""
    file = _write(tmp_path, "exemplary", f"def build(): return nn.Linear(2, 1)\n{form}\n")
    assert tuple(build(f"{file}:build").example_inputs.shape) == (1, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model", "expected PACKAGE.MODULE:BUILDER"),
        (":build", "expected PACKAGE.MODULE:BUILDER"),
        ("model:", "expected PACKAGE.MODULE:BUILDER"),
        ("no.such.package:build", "no.such.package cannot be imported"),
        ("absent.py:build", "absent.py: no such file"),
        (f"{_HERE}:Clasifier", "has no 'Clasifier'; it has Branching, Classifier"),
        (f"{_HERE}:__doc__", "gives a builtins.str, which is no model"),
        (f"{_HERE}:Classifier(3)", "arguments need names"),
        (f"{_HERE}:Classifier(seed=open('x'))", "expected NAME=VALUE"),
        (f"{_HERE}:Classifier(sede=3)", "unexpected keyword argument 'sede'"),
        ("tests.unit.exporter.modules:Fields", "missing a required argument: 'mean'"),
        ("collections:OrderedDict", "gives a collections.OrderedDict, which is no model"),
    ],
)
def test_sources_that_build_nothing_are_refused(text: str, says: str) -> None:
    """The error says which part of SOURCE is wrong and what there is instead."""
    with pytest.raises(UsageError) as caught:
        _built(text)
    assert says in str(caught.value)


def test_a_builder_takes_arguments() -> None:
    """Arguments are literals by name; a label shows them."""
    text = f"{_HERE}:Classifier(seed=3)"
    first, other = (build(t).model.hidden.weight for t in (f"{_HERE}:Classifier", text))
    assert not torch.equal(first, other)
    assert label_of(text) == text


def test_a_file_with_a_mistake_is_named(tmp_path: Path) -> None:
    """A syntax error in the user's file is the user's to see."""
    file = _write(tmp_path, "mistaken", "def build(:\n")
    with pytest.raises(UsageError, match=r"mistaken\.py cannot be imported"):
        build(f"{file}:build")
