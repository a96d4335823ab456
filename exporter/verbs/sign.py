"""`penstock-export sign VERSION` and `verify-signature VERSION`."""

import argparse
from pathlib import Path

from exporter.console import Console
from exporter.errors import UsageError
from exporter.signing import sign_version, verify_signature


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Sign a published version. Raises SignatureFailed, UsageError."""
    path = sign_version(arguments.directory, _key(arguments))
    console.result(f"signed: {path}", {"signed": True, "path": str(path)})
    return 0


def verify(arguments: argparse.Namespace, console: Console) -> int:
    """Check a signature as a server does. Raises SignatureFailed, UsageError."""
    verify_signature(arguments.directory, _key(arguments))
    text = f"{arguments.directory}: signed with {arguments.key}, and not changed since"
    console.result(text, {"verified": True, "path": str(arguments.directory)})
    return 0


def _key(arguments: argparse.Namespace) -> Path:
    if arguments.key is None:
        raise UsageError("--key FILE.pem is required")
    key: Path = arguments.key
    return key
