"""Scheduling: requests into batches, batches through a backend, rows back to their callers.

Knows no gRPC, no ONNX Runtime and no repository.
"""
