"""What people and programs see: progress and text on stderr, JSON on stdout and nothing else."""

import json
import sys
import time
from typing import Any, Final

_ERASE: Final = "\r\x1b[K"


class Console:
    """Says on stderr what happens, with the seconds since the start.

    On a terminal the running step is one line that is finished when the next begins; elsewhere
    each step is a plain line. quiet: only errors. json: results go to stdout as JSON.
    """

    def __init__(self, *, quiet: bool = False, json: bool = False) -> None:
        self._quiet = quiet
        self._json = json
        self._start = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._running: tuple[str, float] | None = None

    def say(self, line: str) -> None:
        """Tell that a step begins."""
        if self._quiet:
            return
        now = time.monotonic() - self._start
        if not self._is_terminal:
            _write(f"[{now:5.1f} s] {line}\n")
            return
        self._finish_line(now)
        self._running = (line, now)
        _write(f"[{now:5.1f} s] {line} ...")

    def result(self, text: str, report: Any) -> None:
        """Show what came of a verb: JSON on stdout if asked for, else the text there."""
        self._finish_line(time.monotonic() - self._start)
        if self._json:
            print(json.dumps(report, indent=2))  # noqa: T201 (for programs)
        elif not self._quiet:
            print(text)  # noqa: T201 (for people)

    def export_result(self, text: str, report: Any) -> None:
        """Show what was published: for people on stderr, where progress went; JSON on stdout."""
        self._finish_line(time.monotonic() - self._start)
        if not self._quiet:
            _write(text + "\n")
        if self._json:
            print(json.dumps(report, indent=2))  # noqa: T201 (for programs)

    def fail(self, text: str, report: Any) -> None:
        """Show why it went wrong."""
        if self._running is not None:
            _write("\n")
            self._running = None
        _write(f"penstock-export: {text}\n")
        if self._json:
            print(json.dumps(report, indent=2))  # noqa: T201 (for programs)

    def _finish_line(self, now: float) -> None:
        if self._running is not None:
            line, began = self._running
            _write(f"{_ERASE}[{began:5.1f} s] {line}: {now - began:.1f} s\n")
            self._running = None


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
