"""Servers of others, each with a minimal ONNX runtime, in an environment of its own."""
