"""What the engine for responses asks of a model: one request in, any number of responses out."""

from collections.abc import Generator
from threading import Event
from typing import Protocol, TypeAlias

from service.inference.request import Request
from service.tensors import Tensors

# Yields responses and returns the last one, or None if there is none left to give.
Responses: TypeAlias = Generator[Tensors, None, Tensors | None]


class Producer(Protocol):
    """One instance of a model. It is made, used and closed by one thread."""

    def respond(self, request: Request, left: Event) -> Responses:
        """Return the responses of a request; nothing runs before the first is asked for.

        Between two of them other requests may be served, and it may be closed instead of asked for
        the next. left: set when nobody waits for the request any more.
        Raises RequestError with a text for the caller; anything else is a failure of the model's.
        """

    def close(self) -> None:
        """Free the model."""
