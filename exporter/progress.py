"""What an export says while it runs, which step it is in, and how long each one took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from exporter.errors import ExportError

Progress: TypeAlias = Callable[[str], None]


def silent(_line: str) -> None:
    """Say nothing."""


class Steps:
    """Names the step that runs. seconds: how long each one took, in order; they add up."""

    def __init__(self, say: Progress | None = None) -> None:
        self.say: Progress = say or silent
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, line: str = "") -> Iterator[None]:
        """Run a step: say the line before it, and note in an error of it where it happened."""
        if line:
            self.say(line)
        start = time.monotonic()
        try:
            yield
        except ExportError as error:
            error.step = error.step or name
            raise
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
