"""What a tap notes of a call, how it holds one, and what it wants of those that read the wire."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

PATIENCE_S = 8.0  # less than the deadlines of the clients that are held


@dataclass(slots=True)
class Call:
    """One call. sent, answers: number of messages. requests: the first of those that were sent.

    path: of REST METHOD PATH. status: its grpc-status, of REST HTTP's; None while it has none.
    """

    path: str
    headers: Mapping[str, str]
    requests: list[bytes] = field(default_factory=list)
    sent: int = 0
    answers: int = 0
    status: int | None = None
    hold: "Hold | None" = None


class Hold:
    """Keeps the answers to a call from its client until so many of its requests have come.

    A client that waits for an answer before it goes on gets it when no request has come for so many
    seconds. What follows the first answer on the connection waits too, also what widens the windows
    of HTTP/2: the requests have to fit into the first, of 64 KiB.
    """

    def __init__(self, path: str, requests: int, patience_s: float) -> None:
        self.path = path
        self.requests = requests
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._came = 0
        self._is_over = False

    @property
    def came(self) -> int:
        """Return how many requests came before the first answer was let go."""
        return self._came

    def request(self) -> None:
        """Count a request."""
        with self._changed:
            if not self._is_over:
                self._came += 1
                self._changed.notify()

    def wait(self) -> None:
        """Return when the answers may go."""
        with self._changed:
            while not self._is_over and self._came < self.requests:
                if not self._changed.wait(self._patience_s):
                    self._is_over = True
            self._is_over = True

    def end(self) -> None:
        """Hold nothing any more."""
        with self._changed:
            self._is_over = True
            self._changed.notify()


class Reader(Protocol):
    """Reads one direction of a connection."""

    def feed(self, data: bytes) -> None:
        """Take what came next, before it goes on; may wait, and must not raise."""

    def end(self) -> None:
        """Take notice that nothing comes any more."""
