"""Names of models and versions: one grammar for the exporter and the server."""

import re
from typing import Final

# A name becomes a directory, a metric label and a part of messages: it is plain text.
MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")
MODEL_NAME_RULE: Final = (
    "1 to 128 letters, digits, '_', '-' or '.', the first a letter, a digit or '_'"
)
_VERSION: Final = re.compile(r"[1-9][0-9]{0,17}")


def is_model_name(name: str) -> bool:
    """Tell whether name may name a model."""
    return MODEL_NAME.fullmatch(name) is not None


def parse_version(text: str) -> int | None:
    """Return the version that a directory name stands for: 1 and up, no leading zeros."""
    return int(text) if _VERSION.fullmatch(text) else None
