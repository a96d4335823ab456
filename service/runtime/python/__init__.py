"""Models written in Python: importing model.py, and running it."""
