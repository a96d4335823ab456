"""Variants of an exported model: smaller or faster, measured, and published only if better.

    from exporter.variants import compress, quantize

The names are loaded when they are first used: a child process that only runs a session needs
no quantiser.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from exporter.variants.choose import Choice, compress
    from exporter.variants.kinds import KINDS, Variant
    from exporter.variants.make import quantize

__all__ = ["KINDS", "Choice", "Variant", "compress", "quantize"]

_HOMES: Final = {
    "Choice": "choose",
    "compress": "choose",
    "KINDS": "kinds",
    "Variant": "kinds",
    "quantize": "make",
}


def __getattr__(name: str) -> Any:
    """Load a name from the module that defines it."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"exporter.variants.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
