"""Stateful sequences: which request belongs to which sequence, and the state between them.

`table` decides, without a thread or a clock; `engine` does. Knows no gRPC and no ONNX Runtime.
"""
