"""The log: one line an event on stderr, as text or JSON; control characters are escaped."""

import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from typing import Final, TextIO

_MAX_MESSAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class LogSettings:
    """info, warning, error: whether such lines are written. Worse than an error always is.

    verbose_level: above 0 what the server does with each call is told too. form: "default" or
    "ISO8601", which has milliseconds and the name of the logger; JSON always has both.
    """

    info: bool = True
    warning: bool = True
    error: bool = True
    verbose_level: int = 0
    form: str = "default"


class LogControl(logging.Filter):
    """Decides what the log says. Methods may be called from any thread."""

    def __init__(self, settings: LogSettings, logger: logging.Logger | None = None) -> None:
        """Decide by settings what handlers with this filter say. logger: asks the handlers."""
        super().__init__()
        self.settings = settings
        self._logger = logger

    def change(self, settings: LogSettings) -> None:
        """Let other settings hold from now on."""
        self.settings = settings
        if self._logger is not None:
            self._logger.setLevel(self.least_level)

    @property
    def least_level(self) -> int:
        """Return the least level of which there may be lines."""
        return next((level for level in _LEVELS if self._says(level)), logging.CRITICAL)

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is written; see logging.Filter."""
        return self._says(record.levelno)

    def _says(self, level: int) -> bool:
        settings = self.settings
        if level >= logging.CRITICAL:
            return True
        if level >= logging.ERROR:
            return settings.error
        if level >= logging.WARNING:
            return settings.warning
        return settings.info if level >= logging.INFO else settings.verbose_level > 0


_LEVELS: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)


class _Text(logging.Formatter):
    def __init__(self, line: str, date: str) -> None:
        super().__init__(line, date)
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  its name upstream
        return _printable(super().formatMessage(record))


class _ChosenText(logging.Formatter):
    """Text in the form that holds at the moment."""

    def __init__(self, control: LogControl) -> None:
        super().__init__()
        self._control = control

    def format(self, record: logging.LogRecord) -> str:
        return _FORMS[self._control.settings.form].format(record)


_FORMS: Final = {
    "default": _Text("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ"),
    "ISO8601": _Text(
        "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    ),
}
FORMS: Final = tuple(_FORMS)


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
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def configure(level: str, form: str) -> LogControl:
    """Send the log of everything to stderr; return what it can be changed by.

    level: the least that is written. form: "text" or "json".
    """
    control = LogControl(
        LogSettings(
            info=level in ("debug", "info"),
            warning=level != "error",
            verbose_level=int(level == "debug"),
        ),
        logging.getLogger(),
    )
    handler = _Handler(sys.stderr)
    handler.addFilter(control)
    handler.setFormatter(_Json() if form == "json" else _ChosenText(control))
    logging.basicConfig(level=control.least_level, handlers=[handler], force=True)
    return control


def log_control() -> LogControl:
    """Return what `configure` returned last; where it never ran, one that controls nothing."""
    for handler in logging.getLogger().handlers:
        for entry in handler.filters:
            if isinstance(entry, LogControl):
                return entry
    return LogControl(LogSettings())


def _printable(text: str) -> str:
    cut = text[:_MAX_MESSAGE]
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in cut)
