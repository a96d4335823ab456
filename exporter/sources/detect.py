"""Which kind of source something is: by the form of its text, its first bytes, or its class.

Nothing is loaded, unpickled or imported to find out, except the module of the kind itself.
"""

import importlib
import re
from pathlib import Path
from typing import Any, Final, cast

from exporter.errors import UsageError
from exporter.sources.base import Kind

_PYTHON: Final = "exporter.sources.python"
_MODULE: Final = "exporter.sources.pytorch.module"
# By class, the most special first: a Keras model may be a torch module as well.
_BY_CLASS: Final = (
    ("torch.nn.modules.module.Module", _MODULE),
)  # fmt: skip
_KNOWN: Final = "a torch.nn.Module"
_BY_SUFFIX: Final[dict[str, str]] = {}
_PYTHON_SOURCE: Final = re.compile(
    r"(?P<place>.+?\.py|[\w.]+):(?P<name>[^\W\d][\w.]*)(?:\((?P<arguments>.*)\))?", re.DOTALL
)
PYTHON_FORMS: Final = "expected PACKAGE.MODULE:BUILDER or FILE.py:BUILDER"


def kind_of_text(source: str) -> Kind:
    """Return the module that knows this SOURCE. Raises UsageError for what no module knows."""
    if _PYTHON_SOURCE.fullmatch(source) and not Path(source).exists():
        return _module(_PYTHON)
    raise UsageError(
        f"SOURCE {source!r}: {PYTHON_FORMS}, such as examples.digits.model:build_model",
    )


def split_python(source: str) -> tuple[str, str, str | None]:
    """Return module or file, name, and the text between its brackets (None without brackets)."""
    match = _PYTHON_SOURCE.fullmatch(source)
    if match is None:
        raise UsageError(f"SOURCE {source!r}: {PYTHON_FORMS}")
    return match["place"], match["name"], match["arguments"]


def kind_of_object(value: Any, source: str = "") -> Kind:
    """Return the module that knows objects of this class. Raises UsageError if none does.

    source: SOURCE that built the object, for the message.
    """
    ancestry = [f"{c.__module__}.{c.__qualname__}" for c in type(value).__mro__]
    for name, module in _BY_CLASS:
        if any(ancestor.startswith(name) for ancestor in ancestry):
            return _module(module)
    what = f"SOURCE {source!r} gives" if source else "expected a model, got"
    raise UsageError(
        f"{what} a {type(value).__module__}.{type(value).__qualname__}, which is no model that "
        f"the exporter knows: {_KNOWN}",
    )


def label_of(source: str) -> str:
    """Return SOURCE without directories of this machine."""
    match = _PYTHON_SOURCE.fullmatch(source)
    if match is None or Path(source).exists():
        return Path(source).name
    place = match["place"]
    return Path(place).name + source[len(place) :] if place.endswith(".py") else source


def _module(name: str) -> Kind:
    return cast("Kind", importlib.import_module(name))
