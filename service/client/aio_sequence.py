"""A sequence for asyncio: steps of one model that share a state at the server."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from types import TracebackType
from typing import Self, Unpack

from service.client.aio_link import AsyncLink
from service.client.aio_stream import AsyncStream, Source, next_of
from service.client.options import RequestOptions, Wishes, replaced
from service.client.requests import Inputs
from service.client.responses import Outputs
from service.client.steps import Steps


class AsyncSequence:
    """One sequence, as `Sequence` is. Cancelling a step ends the sequence."""

    def __init__(
        self,
        link: AsyncLink,
        model: str,
        wishes: Wishes,
        sequence_id: int | str | None,
        *,
        is_stream: bool,
    ) -> None:
        self._link = link
        self._model = model
        self._wishes = wishes
        self._steps = Steps(model, sequence_id, is_stream=is_stream)
        self._lock = asyncio.Lock()
        self._stream: AsyncStream | None = None
        if is_stream:  # decoupled: a model may answer the last step alone, and then says so
            self._stream = AsyncStream(link, model, wishes, window=1, is_decoupled=True)
        self.id = self._steps.id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def step(
        self, inputs: Inputs, *, last: bool = False, **options: Unpack[RequestOptions]
    ) -> Outputs:
        """Take one step and return its outputs. options: in place of those of the sequence.

        Raises RequestRefused and the other ClientErrors, SequenceEnded after the last step or
        an error, and TypeError for an array that no datatype can carry, which ends nothing.
        """
        wishes = replaced(self._wishes, options)
        encoded = await self._link.encode(self._model, inputs, wishes)
        async with self._lock:
            with self._steps.step(last=last) as flags:
                if self._stream is not None:
                    await self._stream.send_encoded(encoded, wishes, flags)
                    return (await self._stream.recv()).result()
                call = self._link.core.infer_call(self._model, encoded, wishes, **flags)
                return await self._link.run(call, wishes, is_step=True)

    async def run(self, inputs: Source) -> AsyncGenerator[Outputs, None]:
        """Take a step for each element of inputs and yield the outputs; the last step ends it.

        A step is taken when the element behind it is there, or there is none.
        """
        each = aiter(inputs) if isinstance(inputs, AsyncIterable) else iter(inputs)
        current = await next_of(each)
        while current is not None:
            following = await next_of(each)
            yield await self.step(current, last=following is None)
            current = following

    async def close(self) -> None:
        """Take no more steps."""
        self._steps.close()
        if self._stream is not None:
            await self._stream.close()
