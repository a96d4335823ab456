"""Waiting for what must happen, with a deadline and without a fixed sleep."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

WAIT_S = 30.0  # longest wait for anything that must happen
_POLL_S = 0.005

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: str, timeout: float = WAIT_S) -> T:
    """Return the first true value of condition; fails the test if there is none in time."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"after {timeout:g} s still not: {what}"
        pause.wait(_POLL_S)
    return value
