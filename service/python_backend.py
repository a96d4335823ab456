"""What a model written in Python sees of the server: the whole interface of a model.py.

A version directory holds model.py with a class Model:

    class Model:
        def __init__(self, context): ...     # once an instance, on the instance's thread
        def infer(self, request): ...        # once a request, on the same thread
        def close(self): ...                 # optional; once at the end, on the same thread

`infer` returns a mapping from output name to array. A decoupled model may be a generator instead:
each mapping that it yields is a response, as is one that it returns; it may end without any.
docs/python-backend.md has the rules and an example that runs.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Parameter: TypeAlias = bool | int | float | str


class InvalidInput(Exception):
    """The request is wrong. The text goes to its caller, with INVALID_ARGUMENT.

    Any other exception is the model's own failure: the caller gets INTERNAL and an id, under which
    the log has the exception.
    """


class Cancelled(Exception):
    """Nobody waits for the request any more. `Request.sleep` raises it; let it pass."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a model is told about itself.

    version: decimal. directory: of the version, where model.py lies. parameters: those of
    config.pbtxt. config: all of it, completed, by the names of config.pbtxt.
    """

    name: str
    version: str
    directory: Path
    parameters: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


class Request:
    """One request. A test of a model may make one by hand.

    inputs: arrays by name, read-only; they fit config.pbtxt. BYTES are arrays of objects, each
    element bytes; BF16 are the upper halves of float32, as uint16.
    outputs: names of the outputs that the caller wants, in order.
    parameters: what the caller sent beside the protocol's own. id: as the caller gave it, or "".
    deadline: when the caller gives up, in seconds of time.monotonic; None: never.
    """

    __slots__ = ("_left", "deadline", "id", "inputs", "outputs", "parameters")

    def __init__(
        self,
        inputs: Mapping[str, Array],
        *,
        outputs: Sequence[str] = (),
        parameters: Mapping[str, Parameter] | None = None,
        id: str = "",  # noqa: A002  the protocol's word
        deadline: float | None = None,
        left: threading.Event | None = None,
    ) -> None:
        """left: set when nobody waits any more; the server's."""
        self.inputs = inputs
        self.outputs = tuple(outputs)
        self.parameters: Mapping[str, Parameter] = dict(parameters or {})
        self.id = id
        self.deadline = deadline
        self._left = left or threading.Event()

    @property
    def cancelled(self) -> bool:
        """True when nobody waits any more: the caller has left, or the deadline has passed."""
        return self._left.is_set()

    def sleep(self, seconds: float) -> None:
        """Wait. Raises Cancelled as soon as nobody waits for the request any more."""
        if self._left.wait(max(0.0, seconds)):
            raise Cancelled


def texts(values: Sequence[str | bytes]) -> Array:
    """Return a flat BYTES array: numpy's own string arrays lose trailing NULs."""
    array = np.empty(len(values), dtype=object)
    array[:] = [value.encode() if isinstance(value, str) else value for value in values]
    return array
