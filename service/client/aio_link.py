"""The channels of one asyncio client: unary calls, streams, requests with their BF16."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import grpc
import grpc.aio

from service.client.calls import STREAM_INFER, Call, Signature, model_metadata
from service.client.core import Core
from service.client.errors import Cancelled
from service.client.options import Wishes
from service.client.requests import Encoded, Inputs, holds_uint16

R = TypeVar("R")


class AsyncLink:
    """What an `AsyncClient`, its streams and its sequences share, on one event loop.

    The channels belong to the loop that runs at the first call, so none is made before it.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self._channels: dict[bool, grpc.aio.Channel] = {}
        self._methods: dict[tuple[str, bool], Any] = {}

    async def close(self) -> None:
        """Close the channels; calls in progress are cancelled."""
        for channel in self._channels.values():
            await channel.close()

    async def run(self, call: Call[R], wishes: Wishes, *, is_step: bool = False) -> R:
        """Make a unary call and return its result. Raises ClientError.

        is_step: it must neither be sent twice nor reach another server than the one before.
        Cancelling the task cancels the call.
        """
        key = (call.path, is_step)
        method = self._methods.get(key)
        if method is None:
            method = self._methods[key] = self._channel(is_step=is_step).unary_unary(call.path)
        try:
            with cancellations(call.model, call.request_id):
                data = await method(call.request, **self.core.unary_arguments(wishes))
        except grpc.RpcError as error:
            raise self.core.translated(error, call.model, call.request_id) from None
        return self.core.finish(call, data)

    def stream(self, wishes: Wishes) -> Any:
        """Begin a stream of requests, to write to and read from."""
        arguments = self.core.arguments(wishes, wishes.deadline)
        return self._channel(is_step=False).stream_stream(STREAM_INFER)(**arguments)

    async def encode(
        self, model: str, inputs: Inputs, wishes: Wishes, *, classes: int = 0
    ) -> Encoded:
        """Return a request; asks the server once which inputs are BF16, if that matters."""
        if holds_uint16(inputs):
            await self.signature(model, wishes.version)
        return self.core.encode(model, inputs, wishes, classes=classes)

    async def signature(self, model: str, version: str) -> Signature:
        """Return what requests need to know of a model; the server is asked once."""
        known = self.core.signature(model, version)
        if known is None:
            metadata = await self.run(model_metadata(model, version), Wishes())
            known = self.core.note(model, version, metadata)
        return known

    def _channel(self, *, is_step: bool) -> grpc.aio.Channel:
        channel = self._channels.get(is_step)
        if channel is None:
            channel = self._channels[is_step] = self._connect(for_steps=is_step)
        return channel

    def _connect(self, *, for_steps: bool) -> grpc.aio.Channel:
        arguments = self.core.settings.channel_arguments(for_steps=for_steps)
        if self.core.credentials is None:
            return grpc.aio.insecure_channel(self.core.address, arguments)
        return grpc.aio.secure_channel(self.core.address, self.core.credentials, arguments)


@contextmanager
def cancellations(model: str, request_id: str = "") -> Iterator[None]:
    """Raise Cancelled where gRPC's CancelledError is of the call, and not of the task in it.

    Whoever closes a client or a stream cancels its calls. The tasks that wait for them go on,
    and would end without a word if it looked as if they were cancelled themselves.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise cancelled(model, request_id) from None


def cancelled(model: str, request_id: str = "") -> Cancelled:
    """Return the error of a call that somebody here has cancelled."""
    return Cancelled(
        grpc.StatusCode.CANCELLED,
        "the client or the stream was closed before the answer was there",
        model=model,
        request_id=request_id,
    )
