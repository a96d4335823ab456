"""The command `penstock`. Each verb is a module that is imported when it is used."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Final

from service import __version__
from service.cli.usage import UsageError
from service.errors import PenstockError, SettingsError

VERBS: Final = {
    "serve": "serve a model repository, the directory of one model, or an .onnx file",
    "predict": "send inputs from a file to a server and show the answer",
    "inspect": "describe a repository, an .onnx file or a running server",
    "check": "validate settings and repository without serving",
    "bench": "put a load on a server and find out how much it bears, and how fast",
    "health": "ask a server for its health; the exit code is the answer",
}
_INTERRUPTED: Final = 130  # what shells give for SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 done, 1 failed, 2 wrong usage, 3 requests lost."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    if given[:1] and given[0] in VERBS:
        verb = importlib.import_module(f"service.cli.{given[0]}")
        verb_parser = argparse.ArgumentParser(
            prog=f"penstock {given[0]}",
            description=VERBS[given[0]][0].upper() + VERBS[given[0]][1:] + ".",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(verb_parser)
        try:
            return int(verb.run(verb_parser.parse_args(given[1:])))
        except (SettingsError, UsageError) as error:
            print(f"penstock {given[0]}: {error}", file=sys.stderr)  # noqa: T201
            return 2
        except PenstockError as error:
            print(f"penstock {given[0]}: {error}", file=sys.stderr)  # noqa: T201
            return 1
        except KeyboardInterrupt:
            return _INTERRUPTED
    parser.parse_args(given)
    parser.print_help()
    return 0 if not given else 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock",
        description="Serves trained models over gRPC.",
        epilog="penstock VERB --help tells the rest. Models come from penstock-export.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")
    for name, text in VERBS.items():
        verbs.add_parser(name, help=text, add_help=False)
    return parser
