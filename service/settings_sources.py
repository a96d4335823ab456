"""Where settings come from: flags, the environment, a TOML file.

A flag wins over the environment (PENSTOCK_NAME), which wins over the TOML file (--config), which
wins over the default. The only module that reads the environment.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Final

from service.config import PREFIX, Settings, flag
from service.errors import SettingsError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every setting to a parser. A flag that is not given is absent from the result."""
    groups: dict[str, Any] = {"": parser}
    for entry in fields(Settings):
        text, choices = entry.metadata["help"], entry.metadata.get("choices") or None
        name = entry.metadata.get("group", "")
        group = groups.get(name) or groups.setdefault(name, parser.add_argument_group(name))
        if entry.name == "repository":
            parser.add_argument("repository", nargs="?", default=argparse.SUPPRESS, help=text)
        elif isinstance(entry.default, tuple):
            group.add_argument(
                flag(entry.name),
                type=_one if entry.metadata.get("is_secret") else _parts,
                action="extend",
                default=argparse.SUPPRESS,
                metavar=entry.metadata["metavar"],
                help=text,
            )
        elif entry.type is bool or isinstance(entry.default, bool):
            group.add_argument(
                flag(entry.name),
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=f"{text} (default: {'yes' if entry.default else 'no'})",
            )
        else:
            group.add_argument(
                flag(entry.name),
                type=type(entry.default),
                choices=choices,
                default=argparse.SUPPRESS,
                metavar=None if choices else _METAVARS[type(entry.default)],
                help=text if entry.default == "" else f"{text} (default: {entry.default})",
            )
    parser.add_argument("--config", default=None, metavar="FILE", help="TOML file with settings")


# Kubernetes tells the containers beside a Service called penstock its address, as PENSTOCK_PORT.
_LINK: Final = re.compile("(tcp|udp|sctp)://")
_METAVARS: Final = {str: "TEXT", int: "N", float: "SECONDS"}


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings from flags, environment and the TOML file that flags["config"] names.

    Raises SettingsError for an unknown name or a value of the wrong type.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    path = flags.get("config") or environment.get(PREFIX + "CONFIG")
    if path:
        values.update(_from_file(Path(path)))
    values.update(_from_environment(environment))
    known = {entry.name for entry in fields(Settings)}
    values.update({name: value for name, value in flags.items() if name in known})
    for entry in fields(Settings):
        if isinstance(entry.default, tuple) and entry.name in values:
            values[entry.name] = tuple(values[entry.name])  # a list, where it came from flags
        if entry.metadata.get("is_secret"):
            groups = values.get(entry.name, ())
            values[entry.name] = tuple(_with_secret(entry.name, g, environment) for g in groups)
    if not values.get("repository"):
        raise SettingsError(
            "REPOSITORY is missing: what is to be served? See penstock serve --help"
        )
    return Settings(**values)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path}: not TOML: {error}") from error
    by_name = {entry.name: entry for entry in fields(Settings)}
    values: dict[str, Any] = {}
    for key, value in content.items():
        entry = by_name.get(key.replace("-", "_"))
        if entry is None:
            raise SettingsError(f"--config {path}: unknown setting '{key}'")
        kind = _kind(entry)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)  # noqa: PLW2901
        if kind is tuple and isinstance(value, list) and all(type(one) is str for one in value):
            value = tuple(value)  # noqa: PLW2901
        if type(value) is not kind:
            raise SettingsError(f"--config {path}: {key} is {value!r}, expected {_EXPECTED[kind]}")
        values[entry.name] = value
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for entry in fields(Settings):
        text = environment.get(PREFIX + entry.name.upper())
        if text is not None and not (_kind(entry) is int and _LINK.match(text)):
            is_secret = entry.metadata.get("is_secret")
            name = PREFIX + entry.name.upper()
            values[entry.name] = (
                tuple(text.split()) if is_secret else _parse(name, text, _kind(entry))
            )
    return values


def _parse(name: str, text: str, kind: type) -> Any:
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off", ""):
            return False
        raise SettingsError(f"{name} is '{text}', expected {_EXPECTED[bool]}")
    if kind is tuple:
        return _parts(text)
    try:
        return kind(text)
    except ValueError:
        raise SettingsError(f"{name} is '{text}', expected {_EXPECTED[kind]}") from None


_EXPECTED: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a number of seconds",
    str: "a text",
    tuple: "a list of texts",
}


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part for part in map(str.strip, text.split(",")) if part)


def _one(text: str) -> tuple[str, ...]:
    return (text,)


def _with_secret(name: str, text: str, environment: Mapping[str, str]) -> str:
    """Return NAME=VALUE where VALUE was @FILE or $VARIABLE, for secrets that no process list shows.

    Raises SettingsError, which tells no value.
    """
    head, _, value = text.partition("=")
    if value.startswith("@"):
        try:
            value = Path(value[1:]).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f"{flag(name)}: the file of '{head}' cannot be read: {error}"
            ) from error
    elif value.startswith("$"):
        if value[1:] not in environment:
            raise SettingsError(f"{flag(name)}: '{head}' is to be {value}, which is not set")
        value = environment[value[1:]]
    return f"{head}={value}"


def _kind(entry: "Field[Any]") -> type:
    return str if entry.default is MISSING else type(entry.default)
