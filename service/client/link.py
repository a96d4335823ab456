"""The channels of one synchronous client: unary calls, streams, requests with their BF16."""

import threading
from collections.abc import Iterator
from typing import Any, TypeVar

import grpc

from service.client.calls import STREAM_INFER, Call, Signature, model_metadata
from service.client.core import Core
from service.client.options import Wishes
from service.client.requests import Encoded, Inputs, holds_uint16

R = TypeVar("R")


class Link:
    """What a `Client`, its streams and its sequences share. Any thread may use it."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self._channels = {False: self._connect(for_steps=False)}
        self._methods: dict[tuple[str, bool], Any] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the channels; calls in progress are cancelled."""
        with self._lock:
            for channel in self._channels.values():
                channel.close()

    def run(self, call: Call[R], wishes: Wishes, *, is_step: bool = False) -> R:
        """Make a unary call and return its result. Raises ClientError.

        is_step: it must neither be sent twice nor reach another server than the one before.
        """
        method = self._methods.get((call.path, is_step)) or self._method(call.path, is_step)
        try:
            data = method(call.request, **self.core.unary_arguments(wishes))
        except grpc.RpcError as error:
            raise self.core.translated(error, call.model, call.request_id) from None
        return self.core.finish(call, data)

    def stream(self, requests: Iterator[bytes], wishes: Wishes) -> Any:
        """Begin a stream of requests; gRPC iterates over them on a thread of its own."""
        method: Any = self._channels[False].stream_stream(STREAM_INFER)
        return method(requests, **self.core.arguments(wishes, wishes.deadline))

    def encode(self, model: str, inputs: Inputs, wishes: Wishes, *, classes: int = 0) -> Encoded:
        """Return a request; asks the server once which inputs are BF16, if that matters."""
        if holds_uint16(inputs):
            self.signature(model, wishes.version)
        return self.core.encode(model, inputs, wishes, classes=classes)

    def signature(self, model: str, version: str) -> Signature:
        """Return what requests need to know of a model; the server is asked once."""
        known = self.core.signature(model, version)
        if known is None:
            metadata = self.run(model_metadata(model, version), Wishes())
            known = self.core.note(model, version, metadata)
        return known

    def _method(self, path: str, is_step: bool) -> Any:  # noqa: FBT001  of its only caller
        with self._lock:
            channel = self._channels.get(is_step)
            if channel is None:
                channel = self._channels[is_step] = self._connect(for_steps=is_step)
            method = self._methods[path, is_step] = channel.unary_unary(path)
        return method

    def _connect(self, *, for_steps: bool) -> grpc.Channel:
        arguments = self.core.settings.channel_arguments(for_steps=for_steps)
        if self.core.credentials is None:
            return grpc.insecure_channel(self.core.address, arguments)
        return grpc.secure_channel(self.core.address, self.core.credentials, arguments)
