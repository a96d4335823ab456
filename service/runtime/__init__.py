"""ONNX Runtime: the only package that imports onnxruntime. Knows no gRPC and no scheduling."""
