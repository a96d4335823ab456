"""The log: one line an event on stderr, as text or JSON; control characters are escaped."""

import json
import logging
import os
import sys
import time
from typing import Final, TextIO

_MAX_MESSAGE: Final = 4096


class _Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  its name upstream
        return _printable(super().formatMessage(record))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_MAX_MESSAGE],
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class _Handler(logging.StreamHandler[TextIO]):
    """Drops a line that cannot be written, as on a full disk, and counts it."""

    dropped = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its name upstream
        """Count the line; called with the handler's lock held."""
        del record
        self.dropped += 1


def dropped_lines() -> int:
    """Return how many lines of the log could not be written."""
    handlers = logging.getLogger().handlers
    return sum(handler.dropped for handler in handlers if isinstance(handler, _Handler))


def say(text: str, stream: TextIO | None) -> None:
    """Print a line for people; where it cannot be written, the log says so."""
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        logging.getLogger(__name__).warning("cannot print: %s", error.strerror)


def forget_unwritable() -> None:
    """Let go of what stdout and stderr cannot take: at exit, Python would make a failure of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def configure(level: str, form: str) -> None:
    """Send the log of everything to stderr."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _printable(text: str) -> str:
    cut = text[:_MAX_MESSAGE]
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in cut)
