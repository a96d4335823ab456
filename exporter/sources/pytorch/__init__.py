"""PyTorch: modules, and the files that torch writes of them."""
