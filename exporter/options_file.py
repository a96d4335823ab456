"""A TOML file with the options of a command, for CI: each by the name of its flag.

source = "model.py:build_model"
name = "digits"
repository = "models"
input = ["image:float32[batch,784]"]
max-batch-size = 32
"""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporter.errors import UsageError
from service.errors import listed


def parse_with_file(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments; what the file of --config says stands in for what argv does not.

    A flag that may be repeated is taken from one of them alone. Exits with 2 for wrong arguments,
    as argparse does; raises UsageError for a wrong file.
    """
    arguments = parser.parse_args(argv)
    path = getattr(arguments, "config", None)
    if path is None:
        return arguments
    given = _given(parser, argv)
    for name, value in _values(parser, path).items():
        if name not in given:
            setattr(arguments, name, value)
    return arguments


def _given(parser: argparse.ArgumentParser, argv: Sequence[str]) -> set[str]:
    """Return the names of the arguments that argv itself holds."""
    marker = object()
    empty = argparse.Namespace(**{action.dest: marker for action in parser._actions})  # noqa: SLF001 (argparse offers no other way to list them)
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._AppendAction):  # noqa: SLF001
            setattr(empty, action.dest, None)  # it appends to what is there
    found = parser.parse_args(argv, empty)
    return {
        name for name, value in vars(found).items() if value is not marker and value is not None
    }


def _values(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not TOML: {error}") from error
    actions = {
        action.dest: action
        for action in parser._actions  # noqa: SLF001
        if action.dest not in ("help", "config", "V")
    }
    values = {}
    for key, value in content.items():
        action = actions.get(key.replace("-", "_"))
        if action is None:
            names = sorted(name.replace("_", "-") for name in actions)
            raise UsageError(f"--config {path}: unknown option '{key}'; known are {listed(names)}")
        values[action.dest] = _converted(f"--config {path}: {key}", action, value)
    return values


def _converted(where: str, action: argparse.Action, value: Any) -> Any:
    """Return a value of the file as the flag would give it."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{where} is {value!r}; expected true or false")
        return value
    if isinstance(action, argparse._AppendAction):  # noqa: SLF001
        entries = value if isinstance(value, list) else [value]
        return [_one(where, action, entry) for entry in entries]
    return _one(where, action, value)


def _one(where: str, action: argparse.Action, value: Any) -> Any:
    if isinstance(value, bool | list | Mapping):
        raise UsageError(f"{where} is {value!r}; expected text or a number")
    convert = action.type if callable(action.type) else str
    try:
        converted = convert(str(value))
    except (TypeError, ValueError, argparse.ArgumentTypeError) as error:
        raise UsageError(f"{where} is {value!r}: {error}") from error
    if action.choices is not None and converted not in action.choices:
        raise UsageError(f"{where} is {value!r}; expected one of {', '.join(action.choices)}")
    return converted
