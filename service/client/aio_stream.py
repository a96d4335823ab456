"""One stream for asyncio: requests as the window allows, answers as they come."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import NoReturn, Self, TypeAlias, Unpack

import grpc
import grpc.aio

from service.client.aio_link import AsyncLink, cancellations, cancelled
from service.client.core import parameters_of
from service.client.errors import MalformedAnswer, WindowFull
from service.client.ledger import Answer, Ledger
from service.client.options import Parameter, RequestOptions, Wishes, replaced
from service.client.requests import Encoded, Inputs
from service.client.stream import WINDOW, empty_final

Source: TypeAlias = Iterable[Inputs] | AsyncIterable[Inputs]


class AsyncWindow:
    """As many requests as may be without an answer that was received."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"window is {size}, expected at least 1")
        self.size = size
        self.is_stopped = False
        self._slots = asyncio.Semaphore(size)

    async def enter(self, timeout_s: float | None) -> bool:
        """Wait for a free slot and take it. False: the window was stopped, or time was up."""
        if self._slots.locked():
            try:
                async with asyncio.timeout(timeout_s):
                    await self._slots.acquire()
            except TimeoutError:
                return False
        else:
            await self._slots.acquire()
        if self.is_stopped:
            self._slots.release()  # wakes up the next who waits
        return not self.is_stopped

    def leave(self) -> None:
        """Free a slot."""
        self._slots.release()

    def stop(self) -> None:
        """Let nobody enter any more, and wake up who waits."""
        self.is_stopped = True
        self._slots.release()


class AsyncStream:
    """An open stream. One task may send while another receives.

    At most `window` requests have no final answer that was received; `send` waits for that.
    Leaving the `async with` block cancels what has no answer yet. Cancelling a `send` or a `recv`
    that waits for the network cancels the stream.
    """

    def __init__(
        self,
        link: AsyncLink,
        model: str,
        wishes: Wishes,
        *,
        window: int = WINDOW,
        is_decoupled: bool = False,
        source: Source | None = None,
    ) -> None:
        """source: gives the requests, in a task of its own, in place of `send`."""
        self._link = link
        self._model = model
        self._wishes = wishes
        self._fixed = empty_final(is_decoupled=is_decoupled)
        self._ledger = Ledger(model, is_decoupled=is_decoupled)
        self._window = AsyncWindow(window)
        self._sending, self._receiving = asyncio.Lock(), asyncio.Lock()
        self._failure: Exception | None = None
        self._is_done = False
        self._call = link.stream(wishes)
        self._call.add_done_callback(lambda _call: self._window.stop())
        self._messages = aiter(self._call)
        self._feeder = None if source is None else asyncio.create_task(self._feed(source))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def __aiter__(self) -> AsyncIterator[Answer]:
        """Receive until the last answer; ends after `done_sending` only."""
        while True:
            try:
                answer = await self.recv()
            except EOFError:
                return
            yield answer

    async def send(self, inputs: Inputs, **options: Unpack[RequestOptions]) -> int:
        """Send one request and return its index. options: in place of those of the stream.

        Waits while the window is full, and while the server does not read. Raises WindowFull if
        nobody receives for the client's deadline, ClientError if the stream has broken,
        ValueError after `done_sending`.
        """
        wishes = replaced(self._wishes, options)
        encoded = await self._link.encode(self._model, inputs, wishes)
        return await self.send_encoded(encoded, wishes, {})

    async def send_encoded(
        self, encoded: Encoded, wishes: Wishes, more: Mapping[str, Parameter]
    ) -> int:
        """Send one request that is encoded but for its parameters, as `send` does."""
        give_up_s = self._link.core.settings.deadline
        async with self._sending:
            if self._is_done:
                raise ValueError("nothing can be sent on this stream after done_sending()")
            if not await self._window.enter(give_up_s):
                if not self._window.is_stopped:
                    raise WindowFull(self._window.size, give_up_s)
                await self._raise_end()
            try:
                with cancellations(self._model):
                    return await self._write(encoded, wishes, more)
            except (grpc.RpcError, asyncio.InvalidStateError):
                await self._raise_end()

    async def recv(self) -> Answer:
        """Return the next answer.

        Raises EOFError after the last one, ClientError if the stream breaks.
        """
        async with self._receiving:
            try:
                with cancellations(self._model):
                    data = await anext(self._messages)
            except StopAsyncIteration:
                self._check_end()
                raise EOFError("the stream has no more answers") from None
            except grpc.RpcError as error:
                raise self._link.core.translated(error, self._model) from None
            answer = self._ledger.match(self._link.core.decoder.decode_stream(data))
        if answer.is_final:
            self._window.leave()
        return answer

    async def done_sending(self) -> None:
        """Tell the server that no more requests follow; answers still come."""
        async with self._sending:
            self._is_done = True
            await self._call.done_writing()

    async def close(self) -> None:
        """End the stream; what has no answer yet is cancelled."""
        self._is_done = True
        self._window.stop()
        self._call.cancel()
        if self._feeder is not None:
            self._feeder.cancel()
            await asyncio.gather(self._feeder, return_exceptions=True)

    async def _feed(self, source: Source) -> None:
        """Send what source gives, as the window allows; in a task of its own."""
        each = aiter(source) if isinstance(source, AsyncIterable) else iter(source)
        try:
            while await self._window.enter(None):
                inputs = await next_of(each)
                if inputs is None or not await self._feed_one(inputs):
                    break
        except Exception as error:  # noqa: BLE001  of the caller's iterable: raised to him
            self._failure = error
        await self._call.done_writing()

    async def _feed_one(self, inputs: Inputs) -> bool:
        """Send one request of the source; False: the stream is over, and whoever reads knows."""
        encoded = await self._link.encode(self._model, inputs, self._wishes)
        try:
            await self._write(encoded, self._wishes, {})
        except (grpc.RpcError, asyncio.InvalidStateError):
            return False
        return True

    async def _write(self, encoded: Encoded, wishes: Wishes, more: Mapping[str, Parameter]) -> int:
        """Send one request that has entered the window."""
        try:
            name = self._ledger.name(wishes.request_id)
            message = encoded.message(name, parameters_of(wishes, **self._fixed, **more))
        except BaseException:
            self._window.leave()
            raise
        index = self._ledger.issue(name)
        await self._call.write(message)
        return index

    def _check_end(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._call.cancelled():
            raise cancelled(self._model)
        self._ledger.check_complete()

    async def _raise_end(self) -> NoReturn:
        """Raise what ended the stream, for who still wants to send."""
        code, text = await self._call.code(), await self._call.details()
        if code is grpc.StatusCode.OK:
            raise MalformedAnswer("the server ended the stream", model=self._model)
        empty = grpc.aio.Metadata()
        error = grpc.aio.AioRpcError(code, empty, empty, text)
        raise self._link.core.translated(error, self._model)


async def next_of(each: Iterator[Inputs] | AsyncIterator[Inputs]) -> Inputs | None:
    """Return the next of either kind of iterator, None at its end."""
    if isinstance(each, AsyncIterator):
        return await anext(each, None)
    return next(each, None)
