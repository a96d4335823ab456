"""A request whose caller leaves at the worst of times."""

import threading
from typing import Any

from service.inference.request import Request
from tests.support.waiting import eventually


class LeavingRequest(Request):
    """Is cancelled, by a thread of its own, just before somebody looks whether it has ended.

    A caller can leave at any moment, also between two looks under the lock of who serves him.
    """

    __slots__ = ("_looks", "_thread")

    def __init__(self, *arguments: Any, looks: int, **named: Any) -> None:
        """Take what Request does. looks: that find the caller there, before he leaves."""
        super().__init__(*arguments, **named)
        self._looks = looks
        self._thread = threading.Thread(target=self.cancel)

    @property
    def ended(self) -> bool:
        """Tell whether the outcome is being told; see Request.ended."""
        if self._looks == 0:
            self._thread.start()  # it ends, and then waits for the lock
            eventually(lambda: super(LeavingRequest, self).ended, "the caller has left")
        self._looks -= 1
        return super().ended

    def join(self) -> None:
        """Wait for the thread, if it came to that; else cancel the request here."""
        if self._thread.ident is None:
            self.cancel()
        else:
            self._thread.join()
