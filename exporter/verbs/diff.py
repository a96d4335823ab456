"""`penstock-export diff REPO/NAME 2 3`: what changed between two versions."""

import argparse
from pathlib import Path

from exporter.console import Console
from exporter.difference import diff
from exporter.errors import UsageError
from service.repository.names import parse_version


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Show the difference. Raises UsageError, ConversionFailed, ChildCrashed."""
    model: Path = arguments.model
    numbers = [parse_version(text) for text in (arguments.first, arguments.second)]
    if None in numbers:
        raise UsageError(f"{arguments.first}, {arguments.second}: expected numbers of versions")
    found = diff(model / arguments.first, model / arguments.second, timeout_s=arguments.timeout)
    console.result(found.to_text(), found.to_json())
    return 0
