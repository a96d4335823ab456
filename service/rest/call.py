"""Unary calls that came over HTTP, as the RPCs see every call, and waiting for their end."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from service.errors import NotPermitted
from service.rest.exchange import HttpRequest
from service.rest.status import ClientGone, HttpError, RpcError
from service.rpc.methods import CATEGORY_OF
from service.rpc.restrict import Restrictions
from service.transport.seam import Call, Code, Metadata


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended. reply: the message, if code is OK."""

    code: Code
    message: str
    reply: bytes


class RestCall:
    """See seam.Call; of a unary call only `finish` is used. Made on the event loop's thread."""

    __slots__ = ("_home", "_loop", "deadline", "ending", "metadata", "method", "peer")

    def __init__(self, method: str, request: HttpRequest) -> None:
        """request: where the call came from. Raises HttpError for a wrong deadline."""
        self.method = method
        self.metadata = request.metadata
        self.peer = request.peer
        self.deadline = request.deadline
        self._loop = asyncio.get_running_loop()
        self._home = threading.get_ident()
        self.ending: asyncio.Future[Ending] = self._loop.create_future()

    def finish(
        self,
        code: Code,
        message: str = "",
        *,
        reply: bytes | None = None,
        trailers: Metadata = (),  # noqa: ARG002  HTTP has a place for them that nobody reads
    ) -> None:
        """End the call, from any thread. Only the first time counts."""
        ending = Ending(code, message, reply or b"")
        if threading.get_ident() == self._home:
            self._end(ending)
        else:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._end, ending)

    def _end(self, ending: Ending) -> None:
        if not self.ending.done():
            self.ending.set_result(ending)

    def send_initial_metadata(self, metadata: Metadata) -> None:
        """Do nothing: an HTTP response has its headers with its status."""

    def send(self, message: bytes, *, settles: int = 0) -> bool:  # noqa: ARG002
        """Raise TypeError: the call has one answer."""
        raise TypeError(f"{self.method} is unary")

    def answer(self, ticket: int, message: bytes) -> bool:  # noqa: ARG002
        """Raise TypeError: the call has one answer."""
        raise TypeError(f"{self.method} is unary")

    def detach(self, ticket: int) -> None:
        """Do nothing: there is no order of answers."""

    def finish_answered(self, code: Code, message: str = "", *, trailers: Metadata = ()) -> None:
        """End the call."""
        self.finish(code, message, trailers=trailers)

    def settle(self, count: int) -> None:
        """Do nothing: there are no messages to settle."""


Start: TypeAlias = Callable[[Call, bytes], None]
Cancelled: TypeAlias = Callable[[Call], None]


class Asker:
    """Makes calls for HTTP requests."""

    def __init__(self, start: Start, cancelled: Cancelled, restrictions: Restrictions) -> None:
        """start: takes a call and its message. cancelled: is told when its caller has left."""
        self._start = start
        self._cancelled = cancelled
        self._restrictions = restrictions

    def call(self, method: str, request: HttpRequest) -> RestCall:
        """Return a new call. Raises HttpError if its caller may not make it."""
        call = RestCall(method, request)
        try:
            self._restrictions.check(CATEGORY_OF.get(method), call.metadata)
        except NotPermitted as error:
            # Over gRPC it is UNAVAILABLE, as in Triton; 503 would have proxies try again.
            raise HttpError(403, str(error)) from None
        return call

    async def ask(self, method: str, message: bytes, request: HttpRequest) -> bytes:
        """Return the reply to a new call. Raises as `call` and `run` do."""
        return await self.run(self.call(method, request), message, request)

    async def run(self, call: RestCall, message: bytes, request: HttpRequest) -> bytes:
        """Return the reply to a call.

        Raises RpcError for any other end, its deadline included, and ClientGone.
        """
        try:
            self._start(call, message)
            await asyncio.sleep(0)  # cheap models answer at the end of the burst that it is in
            if not call.ending.done():
                await _wait(call, request)
            ending = call.ending.result()
        except BaseException:
            self._cancelled(call)
            raise
        if ending.code is not Code.OK:
            raise RpcError(ending.code, ending.message)
        return ending.reply


async def _wait(call: RestCall, request: HttpRequest) -> None:
    """Wait for the end of a call. Raises ClientGone, and RpcError if the deadline passes."""
    left = None if call.deadline is None else max(0.0, call.deadline - time.monotonic())
    gone = asyncio.ensure_future(request.gone())
    try:
        await asyncio.wait((call.ending, gone), timeout=left, return_when="FIRST_COMPLETED")
    finally:
        gone.cancel()
    if call.ending.done():
        return
    if gone.done():
        raise ClientGone
    raise RpcError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
