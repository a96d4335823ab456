"""SOURCE: the function or class that builds the module, and the example inputs beside it."""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch

from exporter.errors import UsageError

EXAMPLE_INPUTS: Final = "example_inputs"  # a function or a value beside the builder
_FORMS: Final = "expected PACKAGE.MODULE:BUILDER or FILE.py:BUILDER"


@dataclass(frozen=True, slots=True)
class Source:
    """A built module and where it came from.

    label: SOURCE without directories of this machine. example_inputs: those of the builder's
    module, None if it has none.
    """

    label: str
    module: torch.nn.Module
    example_inputs: Any


def load_source(text: str) -> Source:
    """Import what SOURCE names and build the module. This runs the user's own code.

    The current directory is importable, as with `python -m`.
    Raises UsageError if it cannot be found, imported or called without arguments.
    """
    place, colon, attribute = text.rpartition(":")
    if not colon or not place or not attribute:
        raise UsageError(f"SOURCE {text!r}: {_FORMS}, such as examples.digits.model:build_model")
    is_file = place.endswith(".py")
    holder = _import_file(Path(place)) if is_file else _import_module(place)
    builder: Any = holder
    for part in attribute.split("."):
        builder = getattr(builder, part, None)
        if builder is None:
            raise UsageError(f"SOURCE {text!r}: {place} has no '{attribute}'; {_offer(holder)}")
    label = f"{Path(place).name}:{attribute}" if is_file else text
    return Source(label, _build(text, builder), _example_inputs(place, holder))


def _import_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"SOURCE: {name} cannot be imported from {here}: {error}; {_FORMS}",
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"SOURCE: {path}: no such file; {_FORMS}")
    directory = str(path.resolve().parent)
    if directory not in sys.path:
        sys.path.insert(0, directory)  # as `python FILE.py` does: it may import its neighbours
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"SOURCE: {path}: not a Python file; {_FORMS}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError) as error:
        raise UsageError(f"SOURCE: {path} cannot be imported: {error}") from error
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


def _build(text: str, builder: Any) -> torch.nn.Module:
    if isinstance(builder, torch.nn.Module):
        return builder
    if not callable(builder):
        raise UsageError(f"SOURCE {text!r} is a {type(builder).__name__}, not a function or class")
    _check_callable_without_arguments(text, builder)
    module = builder()
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"SOURCE {text!r} returned a {type(module).__name__}, not a torch.nn.Module",
        )
    return module


def _check_callable_without_arguments(text: str, builder: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(builder)
    except ValueError:  # some built-in classes have none; calling them will tell
        return
    try:
        signature.bind()
    except TypeError as error:
        raise UsageError(
            f"SOURCE {text!r} takes {signature}: {error}; name a function without required "
            "arguments that builds the module",
        ) from None


def _example_inputs(place: str, holder: ModuleType) -> Any:
    value = getattr(holder, EXAMPLE_INPUTS, None)
    if not callable(value):
        return value
    _check_callable_without_arguments(f"{place}:{EXAMPLE_INPUTS}", value)
    return value()
