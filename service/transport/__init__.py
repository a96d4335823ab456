"""The seam to the network and its implementations. Knows gRPC and nothing of inference."""
