"""Guards: what torch assumed of a free axis while it captured, and which line made it do so.

torch says of an axis that the module fixed only that it did; the line is known at the moment of
the assumption, when torch logs it with the user's code on the stack.
"""

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from exporter.sources.user_code import deepest_line

_LOGGER: Final = "torch.fx.experimental.symbolic_shapes"


@dataclass(frozen=True, slots=True)
class Guard:
    """An assumption, as torch words it, and the line of the user's code ("" if not known)."""

    text: str
    line: str


class _Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.guards: list[Guard] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "[guard added]" in record.getMessage():
            line = deepest_line(traceback.extract_stack())
            self.guards.append(Guard(record.getMessage(), line))


@contextmanager
def recorded_guards() -> Iterator[list[Guard]]:
    """Collect the guards that torch adds meanwhile."""
    logger = logging.getLogger(_LOGGER)
    recorder = _Recorder()
    state = logger.level, logger.propagate, logger.handlers
    logger.setLevel(logging.INFO)
    logger.propagate, logger.handlers = False, [recorder]
    try:
        yield recorder.guards
    finally:
        logger.setLevel(state[0])
        logger.propagate, logger.handlers = state[1], state[2]
