"""Which line of the user's own code something happened at: not one of torch's, not one of ours."""

import inspect
import re
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

_OURS: Final = str(Path(__file__).resolve().parents[1])
_LIBRARIES: Final = (sysconfig.get_path("stdlib"), _OURS, "<")
_PACKAGES: Final = ("/site-packages/", "/dist-packages/")  # of any environment on the path
_FRAME: Final = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .+\n\s*(?P<code>.+)')


def is_users(file: str) -> bool:
    """Tell whether a source file is neither a library's nor the exporter's."""
    return not file.startswith(_LIBRARIES) and not any(part in file for part in _PACKAGES)


def deepest_line(frames: Iterable[traceback.FrameSummary]) -> str:
    """Return "FILE:LINE: CODE" of the innermost frame of the user's inside a forward, or "".

    What called the exporter is the user's too, but not what went wrong.
    """
    found = ""
    is_in_forward = False
    for frame in frames:
        is_in_forward = is_in_forward or frame.name == "_call_impl"
        if is_in_forward and is_users(frame.filename):
            found = f"{frame.filename}:{frame.lineno}: {frame.line}"
    return found


def innermost_line(error: BaseException) -> str:
    """Return "FILE:LINE: CODE" of the innermost frame of the user's that we led to, or "".

    What called the exporter stands before our own frames and is not meant.
    """
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(_OURS):
            found = ""
        elif is_users(frame.filename):
            found = f"{frame.filename}:{frame.lineno}: {frame.line}"
    return found


def line_in_text(text: str) -> str:
    """Return "FILE:LINE: CODE" of the last of the user's lines in a traceback in words, or ""."""
    for match in reversed(list(_FRAME.finditer(text))):
        if is_users(match["file"]):
            return f"{match['file']}:{match['line']}: {match['code'].strip()}"
    return ""


def line_of(function: Any, pattern: str) -> str:
    """Return "FILE:LINE: CODE" of the last line of a function of the user's where this is found.

    Where none has, that of its definition; "" if it is not the user's or has no source.
    """
    try:
        lines, first = inspect.getsourcelines(function)
        file = inspect.getsourcefile(function) or ""
    except (OSError, TypeError):
        return ""
    if not is_users(file):
        return ""
    found = [place for place, line in enumerate(lines) if re.search(pattern, line)]
    place = found[-1] if found else 0
    return f"{file}:{first + place}: {lines[place].strip()}"
