"""One HTTP request as the pages see it, and how its body is read: bounded in size and time."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

from service.rest.coding import too_large
from service.rest.status import ClientGone, HttpError
from service.transport.seam import Metadata

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

P = ParamSpec("P")
R = TypeVar("R")

LARGE: Final = 128 << 10  # bytes; the work on as much JSON takes a millisecond or so
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNIT_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request whose body has been read, without its content coding.

    headers: lower-case names; of several with one name the last. metadata: all of them, as gRPC
    has them. receive: of ASGI.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    metadata: Metadata
    body: bytes
    peer: str
    receive: Receive

    @property
    def deadline(self) -> float | None:
        """Return when the caller gives up, in seconds of time.monotonic, by `grpc-timeout`."""
        text = self.headers.get("grpc-timeout")
        if text is None:
            return None
        match = _TIMEOUT.fullmatch(text)
        if match is None:
            raise HttpError(
                400, f"grpc-timeout is '{text[:32]}', expected a number and a unit: 200m, 5S"
            )
        return time.monotonic() + int(match[1]) * _UNIT_S[match[2]]

    def natural(self, header: str) -> int | None:
        """Return a header that is a number. Raises HttpError if it is none."""
        text = self.headers.get(header)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise HttpError(400, f"{header} is '{text[:32]}', expected a number of bytes")
        if any(name == header and value != text for name, value in self.metadata):
            raise HttpError(400, f"{header} is there twice, with other numbers of bytes")
        return int(text)

    async def gone(self) -> None:
        """Wait until the caller has left."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


class Budget:
    """Bytes of bodies that are held for requests in progress, all together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    def hold(self, size: int) -> None:
        """Count bytes as held. Raises HttpError if they are too many."""
        if size > self._most:
            raise HttpError(
                413,
                f"the body needs {size} bytes of memory, at most {self._most} are for all of them "
                "(--max-received-mib); send large tensors as binary data",
            )
        if self._held + size > self._most:
            raise HttpError(
                429,
                f"more than {self._most} bytes are received and unanswered (--max-received-mib)",
            )
        self._held += size

    def free(self, size: int) -> None:
        """Count bytes as held no more."""
        self._held -= size


class Body:
    """Reads the body of one request, and says whether there is more of it to come."""

    def __init__(self, receive: Receive, limit: int, stall_s: float, budget: Budget) -> None:
        """stall_s: a caller that sends nothing for so long is refused."""
        self._receive = receive
        self._limit = limit
        self._stall_s = stall_s
        self._budget = budget
        self._held = 0
        self.is_read = False

    async def read(self, declared: int | None) -> bytes:
        """Return the body. declared: its Content-Length.

        Raises HttpError: 413, 429 or 408. Raises ClientGone.
        """
        if declared is not None and declared > self._limit:
            raise too_large(self._limit)
        parts: list[bytes] = []
        size = 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._stall_s) as patience:
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    part = message.get("body", b"")
                    size += len(part)
                    if size > self._limit:
                        raise too_large(self._limit)
                    self._hold(len(part))
                    parts.append(part)
                    if not message.get("more_body"):
                        break
                    patience.reschedule(loop.time() + self._stall_s)
        except TimeoutError:
            raise HttpError(
                408, f"no more of the body came for {self._stall_s:g} s, after {size} bytes"
            ) from None
        self.is_read = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def grow(self, size: int) -> None:
        """Count bytes that the body has become, or becomes, besides those that came."""
        self._hold(size)

    def release(self) -> None:
        """Let go of what was counted."""
        self._budget.free(self._held)
        self._held = 0

    async def discard(self, most: int, patience_s: float) -> None:
        """Read on and forget, so that a caller who is still sending gets to read the answer."""
        try:
            async with asyncio.timeout(patience_s):
                while most > 0:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return
                    most -= len(message.get("body", b""))
        except TimeoutError:
            return

    def _hold(self, size: int) -> None:
        self._budget.hold(size)
        self._held += size


async def off_loop(size: int, work: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Do work on so many bytes; on another thread if they are many, so that others are served."""
    if size < LARGE:
        return work(*arguments, **named)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, partial(work, *arguments, **named))
