"""`penstock-export inspect FILE`: what an ONNX file, or a version, holds."""

import argparse
from pathlib import Path

from exporter.console import Console
from exporter.inspection import inspect
from service.repository.manifest import MODEL_FILE


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Describe a file. Raises ExportError if it is no ONNX file."""
    path: Path = arguments.file
    summary = inspect(path / MODEL_FILE if path.is_dir() else path)
    console.result(summary.to_text(), summary.to_json())
    return 0
