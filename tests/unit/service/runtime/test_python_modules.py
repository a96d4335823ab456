"""Importing model.py: names of its own, its directory only, nothing written, errors with a line."""

import sys
from pathlib import Path

import pytest

from service.errors import LoadError
from service.runtime.python.modules import ModelModule

MODEL = "class Model:\n    def infer(self, request): ...\n"


def write(directory: Path, text: str = MODEL, **others: str) -> Path:
    """Write model.py, and other modules beside it."""
    directory.mkdir(exist_ok=True, parents=True)
    for name, contents in others.items():
        (directory / f"{name}.py").write_text(contents)
    path = directory / "model.py"
    path.write_text(text)
    return path


def failure(path: Path, **named: object) -> str:
    """Return the error that importing a file ends with, without its path."""
    modules = set(sys.modules)
    with pytest.raises(LoadError) as caught:
        ModelModule(path, "m", "1", **named)  # type: ignore[arg-type]
    assert set(sys.modules) == modules
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_each_load_is_a_module_of_its_own(tmp_path: Path) -> None:
    """Two loads of one file share nothing, and neither is left behind."""
    path = write(tmp_path)
    before = set(sys.modules), list(sys.meta_path), list(sys.path)
    first, second = ModelModule(path, "m", "1"), ModelModule(path, "m", "1")
    assert first.model_class is not second.model_class
    assert first.model_class.__module__ != second.model_class.__module__
    assert first.model_class.__module__ in sys.modules
    first.close()
    second.close()
    assert (set(sys.modules), list(sys.meta_path), list(sys.path)) == before


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    """Nothing that was compiled before is used, however quick the change."""
    for number in range(3):
        module = ModelModule(write(tmp_path, MODEL + f"    number = {number}\n"), "m", "1")
        assert getattr(module.model_class, "number") == number  # noqa: B009  mypy knows it not
        module.close()


def test_modules_beside_it_are_found_relatively(tmp_path: Path) -> None:
    """`from . import` finds a file beside model.py, each version its own."""
    text = "from . import helper\nfrom .helper import NUMBER\n" + MODEL + "    number = NUMBER\n"
    numbers = []
    for number in (1, 2):
        path = write(tmp_path / str(number), text, helper=f"NUMBER = {number}")
        module = ModelModule(path, "m", str(number))
        numbers.append(getattr(module.model_class, "number"))  # noqa: B009
        module.close()
    assert numbers == [1, 2]


def test_modules_beside_it_are_not_found_by_themselves(tmp_path: Path) -> None:
    """A file beside model.py takes no name away from anything else."""
    path = write(tmp_path, "import helper_beside\n" + MODEL, helper_beside="")
    assert failure(path) == (
        "ModuleNotFoundError: No module named 'helper_beside' (model.py, line 1)"
    )


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published stays as it is: no compiled files appear."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = write(tmp_path, "from . import helper\n" + MODEL, helper="")
    ModelModule(path, "m", "1").close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["helper.py", "model.py"]


def test_what_a_manifest_does_not_list_is_not_run(tmp_path: Path) -> None:
    """Neither model.py nor a module beside it."""
    path = write(tmp_path, "from . import helper\n" + MODEL, helper="raise SystemExit")
    assert failure(path, listed=["other.py"]) == "not listed in the manifest, so it is not run"
    error = failure(path, listed=["model.py"])
    assert error.startswith("ImportError: cannot import name 'helper'")
    (tmp_path / "helper.py").write_text("")
    ModelModule(path, "m", "1", ["model.py", "helper.py"]).close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def broken(:\n", "SyntaxError: invalid syntax (model.py, line 1)"),
        ("\n\n1 / 0\n", "ZeroDivisionError: division by zero (model.py, line 3)"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (model.py, line 2)"),
        ("", "has no class Model"),
        ("Model = 1\n", "has no class Model"),
        ("class Model: ...\n", "its class Model has no method infer(self, request)"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line(
    tmp_path: Path, text: str, expected: str
) -> None:
    """The error names the file, what happened, and where in it."""
    assert failure(write(tmp_path, text)) == expected


@pytest.mark.parametrize(
    "text", ["import triton_python_backend_utils as utils\n", "class TritonPythonModel: ...\n"]
)
def test_a_model_for_triton_is_told_what_is_expected_here(tmp_path: Path, text: str) -> None:
    """The error names the interface and the page that describes it."""
    error = failure(write(tmp_path, text))
    assert error.endswith("infer(self, request), see docs/python-backend.md")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """A version of a Python model without model.py says what is expected."""
    assert failure(tmp_path / "model.py").startswith("no such file")
