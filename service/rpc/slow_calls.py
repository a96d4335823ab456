"""Calls whose answers take long, such as loading a model: on threads of their own, in order."""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

from service.errors import ShuttingDown, TooBusy
from service.rpc.methods import Answer
from service.rpc.status import status_of
from service.transport.seam import Call, Code

_LOG = logging.getLogger(__name__)
_THREADS: Final = 4  # calls that are answered at once
_MAX_WAITING: Final = 64


@dataclass(frozen=True, slots=True)
class _Job:
    call: Call
    key: bytes
    answer: Answer
    message: bytes


class SlowCalls:
    """Owns the threads of one kind of calls, which are started when they are first needed."""

    def __init__(self, kind: str) -> None:
        """kind: what they are to do, for whoever is refused."""
        self._kind = kind
        self._changed = threading.Condition()  # guards all that follows
        self._waiting: deque[_Job] = deque()
        self._running: dict[bytes, _Job] = {}  # by key
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._closing = False

    def submit(self, call: Call, key: bytes, answer: Answer, message: bytes) -> None:
        """Have a call answered after all before it with the same key.

        Raises TooBusy or ShuttingDown; the call is not answered then.
        """
        with self._changed:
            if self._closing:
                raise ShuttingDown
            if len(self._waiting) >= _MAX_WAITING:
                raise TooBusy(f"{_MAX_WAITING} calls wait to {self._kind}: try again later")
            self._waiting.append(_Job(call, key, answer, message))
            if len(self._waiting) > self._idle and len(self._threads) < _THREADS:
                name = f"admin-{len(self._threads)}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify()

    def cancelled(self, call: Call) -> None:
        """Forget a caller who has left, unless his call is being answered: that is done whole."""
        with self._changed:
            for job in self._waiting:
                if job.call is call:
                    self._waiting.remove(job)
                    return

    def drain(self) -> None:
        """Refuse what comes, waits, or is under way: whatever comes of it ends with the server."""
        with self._changed:
            self._closing = True
            refused = [*self._waiting, *self._running.values()]
            self._waiting.clear()
            self._changed.notify_all()
        for job in refused:
            job.call.finish(*status_of(ShuttingDown()))

    def join(self, timeout: float) -> None:
        """Wait so many seconds for the threads, after `drain`."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                reply = job.answer(job.message)
            except Exception as error:  # noqa: BLE001  one call must not end the thread
                code, text = status_of(error)
                _LOG.debug("%s of %s: %s: %s", job.call.method, job.call.peer, code.name, text)
                job.call.finish(code, text)
            else:
                _LOG.debug("%s of %s: OK", job.call.method, job.call.peer)
                job.call.finish(Code.OK, reply=reply)
            finally:
                with self._changed:
                    del self._running[job.key]
                    self._changed.notify_all()
            del job  # its message must not outlive it while the thread waits

    def _next(self) -> _Job | None:
        with self._changed:
            while True:
                for job in self._waiting:
                    if job.key not in self._running:
                        self._waiting.remove(job)
                        self._running[job.key] = job
                        return job
                if self._closing:
                    return None
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
