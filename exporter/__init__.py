"""Penstock's exporter: a PyTorch module becomes a proven ONNX version in a model repository.

    from exporter import export

    result = export(module, torch.rand(1, 784), name="digits", repository="models")

Importing this package imports no torch: `export` and its result are loaded when first used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from exporter.errors import (
    ChildCrashed,
    ConversionFailed,
    ExportError,
    PublishFailed,
    UnsafeArtefact,
    UsageError,
    VerificationFailed,
    WeightsError,
)

# onnxruntime reads this when it is imported; every import of this package passes here first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from exporter.pipeline import ExportResult, export

__all__ = [
    "ChildCrashed",
    "ConversionFailed",
    "ExportError",
    "ExportResult",
    "PublishFailed",
    "UnsafeArtefact",
    "UsageError",
    "VerificationFailed",
    "WeightsError",
    "export",
]


def __getattr__(name: str) -> Any:
    """Load `export` and `ExportResult`, and with them torch, when they are first asked for."""
    if name in {"ExportResult", "export"}:
        return getattr(importlib.import_module("exporter.pipeline"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
