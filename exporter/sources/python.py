"""SOURCE as the user's own code: a function, a class or an object, in a module or a file.

PACKAGE.MODULE:NAME or FILE.py:NAME, with arguments if it takes some: model.py:build(width=128).
What it builds may be a model of any framework.
"""

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from exporter.errors import UsageError
from exporter.sources.base import Opened, Request
from exporter.sources.detect import PYTHON_FORMS, kind_of_object, split_python

_EXTRAS: Final = {
    "torch": "export", "safetensors": "export", "transformers": "hf",
    "tensorflow": "tensorflow", "keras": "tensorflow",
    "sklearn": "classical", "xgboost": "classical", "lightgbm": "classical",
}  # fmt: skip
EXAMPLE_INPUTS: Final = "example_inputs"  # a function or a value beside the builder


@dataclass(frozen=True, slots=True)
class Built:
    """What SOURCE builds, and the `example_inputs` of its module, None if it has none."""

    model: Any
    example_inputs: Any


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Build what SOURCE names and open that. This runs the user's own code."""
    built = build(request.source)
    kind = kind_of_object(built.model, request.source)
    examples = built.example_inputs if request.examples is None else request.examples
    with kind.opened(replace(request, source=built.model, examples=examples)) as source:
        yield replace(source, packages=kind.packages)


def build(text: str) -> Built:
    """Import what SOURCE names and build it. This runs the user's own code.

    The current directory is importable, as with `python -m`.
    Raises UsageError if it cannot be found, imported or called with these arguments.
    """
    place, _, arguments = split_python(text)
    holder, builder = find_object(text)
    return Built(_call(text, builder, arguments), _example_inputs(place, holder))


def find_object(text: str) -> tuple[ModuleType, Any]:
    """Import what PACKAGE.MODULE:NAME or FILE.py:NAME names; return the module and the object.

    This runs the user's own code. Raises UsageError if it cannot be found or imported.
    """
    place, attribute, _ = split_python(text)
    holder = _import_file(Path(place)) if place.endswith(".py") else _import_module(place)
    found: Any = holder
    for part in attribute.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise UsageError(f"SOURCE {text!r}: {place} has no '{attribute}'; {_offer(holder)}")
    return holder, found


def _import_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"SOURCE: {name} cannot be imported from {here}: {error}; {_way_out(error)}",
        ) from error


def _way_out(error: Exception) -> str:
    """Return how to get what an import misses, if it is a framework of ours."""
    extra = _EXTRAS.get(str(getattr(error, "name", "")).partition(".")[0])
    return f"pip install 'penstock[{extra}]'" if extra else PYTHON_FORMS


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"SOURCE: {path}: no such file; {PYTHON_FORMS}")
    directory = str(path.resolve().parent)
    if directory not in sys.path:
        sys.path.insert(0, directory)  # as `python FILE.py` does: it may import its neighbours
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"SOURCE: {path}: not a Python file; {PYTHON_FORMS}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise UsageError(
            f"SOURCE: {path} cannot be imported: {error}; {_way_out(error)}",
        ) from error
    return module


def _offer(holder: ModuleType) -> str:
    found = [
        name
        for name, value in vars(holder).items()
        if callable(value)
        and getattr(value, "__module__", "") == holder.__name__
        and not name.startswith("_")
    ]
    return f"it has {', '.join(sorted(found))}" if found else "it defines no function or class"


def _call(text: str, builder: Any, arguments: str | None) -> Any:
    """Return what the builder builds; an object that is no function or class is the model."""
    if not inspect.isroutine(builder) and not inspect.isclass(builder):
        if arguments is not None:
            raise UsageError(
                f"SOURCE {text!r} is a {type(builder).__name__}: it takes no arguments"
            )
        return builder
    keywords = _keywords(text, arguments or "")
    _check_arguments(text, builder, keywords)
    return builder(**keywords)


def _keywords(text: str, arguments: str) -> dict[str, Any]:
    """Return (k=v, ...) as a dict; values are literals of Python, nothing is evaluated."""
    try:
        call = ast.parse(f"f({arguments})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("arguments need names")
        return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise UsageError(
            f"SOURCE {text!r}: ({arguments}): {error}; expected NAME=VALUE, ... with numbers, "
            "strings, lists or None as values",
        ) from None


def _check_arguments(text: str, builder: Any, keywords: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(builder)
    except ValueError:  # some built-in classes have none; calling them will tell
        return
    try:
        signature.bind(**keywords)
    except TypeError as error:
        raise UsageError(
            f"SOURCE {text!r} takes {signature}: {error}; give arguments as in "
            "model.py:build(width=128), or name a function without required ones",
        ) from None


def _example_inputs(place: str, holder: ModuleType) -> Any:
    value = getattr(holder, EXAMPLE_INPUTS, None)
    if not callable(value):
        return value
    _check_arguments(f"{place}:{EXAMPLE_INPUTS}", value, {})
    return value()
