"""The composition root: the only package that knows every other. See server.py and loader.py."""
