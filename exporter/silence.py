"""Silence for what other packages say on the way, where there is nothing for the user to act on."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def silent(level: int) -> Iterator[None]:
    """Show no warnings, and no log records of this level or below, from any package."""
    before = logging.root.manager.disable
    logging.disable(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
