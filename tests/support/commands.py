"""Commands that run in the process of the test, and what they leave."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

NOBODY = "127.0.0.1:1"  # nothing listens there


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Run: TypeAlias = Callable[..., Ran]
