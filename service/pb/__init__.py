"""Stubs generated from protos/ by `make proto`; pool.py is the only file written by hand."""
