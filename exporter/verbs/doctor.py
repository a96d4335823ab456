"""`penstock-export doctor`: what is installed, and what each extra would add."""

import argparse

from exporter.console import Console
from exporter.doctor import diagnose


def run(_arguments: argparse.Namespace, console: Console) -> int:
    """Say what is there. Returns 1 if something stands in the way."""
    found = diagnose()
    console.result(found.to_text(), found.to_json())
    return 1 if found.problems else 0
