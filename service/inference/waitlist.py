"""Requests that wait to be begun one by one: bounded, by priority, until their time is over.

Knows no clock, no thread and no lock: its owner locks it.
"""

from typing import Final

from service.errors import RequestError
from service.inference.admission import SchedulerConfig, Waiting
from service.inference.costs import Costs
from service.inference.queue import RequestQueue
from service.inference.request import Request

_NO_COSTS: Final = Costs()  # how long requests took says nothing of the next one
_MAX_ENDED: Final = 256  # requests that ended in the queue and may stay there


class Waitlist:
    """What waits for one model."""

    def __init__(self, model: str, config: SchedulerConfig) -> None:
        self._queue = RequestQueue(config.queue)
        self._waiting = Waiting(model, config)
        self._ended = 0  # in the queue, at most

    def __len__(self) -> int:
        return self._waiting.requests

    @property
    def earliest_leave(self) -> float:
        """Return a time before which nothing expires."""
        return self._queue.earliest_leave

    def add(self, request: Request, now: float) -> None:
        """Add a request. Raises QueueFull."""
        request.key = ()
        self._waiting.admit(request, 1, now, _NO_COSTS, self._queue.count)
        request.arrived = now
        self._queue.push(request)
        self._waiting.add(request)

    def take(self) -> Request | None:
        """Remove and return the request whose turn it is; None if nothing waits."""
        while self._queue.front() is not None:
            for request in self._queue.take((), 1):  # none, if its caller has left just now
                self._waiting.remove(request)
                return request
        return None

    def expire(self, now: float) -> list[tuple[Request, RequestError]]:
        """Remove what must not be begun any more, with the error it ends with."""
        expired = self._queue.expire(now)
        for request, _ in expired:
            self._waiting.remove(request)
        return expired

    def leave(self, request: Request) -> None:
        """Free the place of a request that has ended."""
        if not request.waiting:
            return
        self._waiting.remove(request)
        self._ended += 1
        if self._ended > len(self) + _MAX_ENDED:
            self._queue.compact()
            self._ended = 0

    def drain(self) -> list[Request]:
        """Return everything that waits, to be ended: that frees its places."""
        return self._queue.drain()
