"""Penstock's server: trained models over gRPC, on ONNX Runtime."""

import os

__version__ = "0.1.0"

# onnxruntime >= 1.29 sends telemetry unless this is set before its import (see
# docs/decisions/0004-no-telemetry.md). Every import of this package passes here first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
