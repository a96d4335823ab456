"""Penstock's exporter: a trained model becomes a proven ONNX version in a model repository.

    from exporter import export

    result = export(module, torch.rand(1, 784), name="digits", repository="models")

Importing this package imports nothing heavy: its functions are loaded when they are first used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any, Final

from exporter.errors import (
    ChildCrashed,
    CompressionFailed,
    ConversionFailed,
    ExportError,
    GateFailed,
    PublishFailed,
    SignatureFailed,
    UnsafeArtefact,
    UsageError,
    VerificationFailed,
    WeightsError,
)

# onnxruntime reads this when it is imported; every import of this package passes here first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from exporter.difference import diff
    from exporter.doctor import diagnose
    from exporter.files import convert_file, verify_file
    from exporter.inspection import inspect
    from exporter.linting import lint
    from exporter.pipeline import ExportResult, export
    from exporter.signing import sign_version, verify_signature

__all__ = [
    "ChildCrashed",
    "CompressionFailed",
    "ConversionFailed",
    "ExportError",
    "ExportResult",
    "GateFailed",
    "PublishFailed",
    "SignatureFailed",
    "UnsafeArtefact",
    "UsageError",
    "VerificationFailed",
    "WeightsError",
    "convert_file",
    "diagnose",
    "diff",
    "export",
    "inspect",
    "lint",
    "sign_version",
    "verify_file",
    "verify_signature",
]

_HOMES: Final = {
    "ExportResult": "pipeline",
    "convert_file": "files",
    "diagnose": "doctor",
    "diff": "difference",
    "export": "pipeline",
    "inspect": "inspection",
    "lint": "linting",
    "sign_version": "signing",
    "verify_file": "files",
    "verify_signature": "signing",
}


def __getattr__(name: str) -> Any:
    """Load a function, and with it numpy and more, when it is first asked for."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"exporter.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
