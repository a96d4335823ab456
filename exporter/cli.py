"""`penstock-export`: which verb, how it ends. Imports what a verb needs when it is wanted."""

import difflib
import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from exporter.arguments import EXPORT, VERBS, make_parser
from exporter.console import Console
from exporter.errors import (
    ChildCrashed,
    CompressionFailed,
    ConversionFailed,
    ExportError,
    GateFailed,
    UnsafeArtefact,
    UsageError,
    VerificationFailed,
)
from exporter.options_file import parse_with_file

EXIT_CODES: Final[dict[type[ExportError], int]] = {
    UsageError: 2,
    UnsafeArtefact: 3,
    ConversionFailed: 4,
    CompressionFailed: 4,
    VerificationFailed: 5,
    GateFailed: 6,
    ChildCrashed: 7,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = words.pop(0) if words and words[0] in VERBS else EXPORT
    parser = make_parser(verb)
    console = Console(json="--json" in words)  # until the arguments are read
    # A stop from outside unwinds like Ctrl-C, so that no half-written version stays behind.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if verb == EXPORT and words:
            _refuse_misspelt(words[0])
        arguments = parse_with_file(parser, words)
        console = Console(quiet=arguments.quiet, json=arguments.json)
        module, _, function = VERBS[verb].run.partition(":")
        code: int = getattr(importlib.import_module(module), function)(arguments, console)
    except ExportError as error:
        code = _exit_code(error)
        console.fail(str(error), {
            "published": False, "error": type(error).__name__, "message": str(error),
            "step": error.step, "exit_code": code,
        })  # fmt: skip
    except OSError as error:  # a full disk outside of the repository, such as in /tmp
        code = 1
        console.fail(f"{error.filename or 'a file'}: {error.strerror or error}", {
            "published": False, "error": type(error).__name__, "message": str(error),
            "exit_code": code,
        })  # fmt: skip
    except KeyboardInterrupt:
        code = 130
        console.fail("interrupted: nothing was published", {
            "published": False, "error": "KeyboardInterrupt", "message": "interrupted",
            "exit_code": code,
        })  # fmt: skip
    finally:
        signal.signal(signal.SIGTERM, previous)
    return code


def _refuse_misspelt(word: str) -> None:
    """Raise UsageError for a word that was meant as a verb: it would be taken for a SOURCE."""
    close = difflib.get_close_matches(word, VERBS, n=1)
    if close and not Path(word).exists():
        raise UsageError(f"'{word}' is no verb and no source; did you mean '{close[0]}'?")


def _exit_code(error: ExportError) -> int:
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
