"""The asyncio client: the methods of `Client`, to be awaited."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self, Unpack

from service.client import calls
from service.client.aio_link import AsyncLink
from service.client.aio_sequence import AsyncSequence
from service.client.aio_stream import AsyncStream, Source
from service.client.core import Core
from service.client.errors import ServerUnreachable
from service.client.ledger import Answer
from service.client.options import CallOptions, ClientOptions, InferOptions, Wishes
from service.client.ranking import rankings
from service.client.requests import Inputs
from service.client.responses import Outputs
from service.client.segment import Segment
from service.client.stream import WINDOW
from service.pb import grpc_service_pb2 as pb
from service.pb.model_config_pb2 import ModelConfig


class AsyncClient:
    """One channel to one server, on the event loop that runs at its first call.

    What `Client` says of arrays, options and errors holds. Cancelling a task cancels its call.
    """

    def __init__(self, address: str, **options: Unpack[ClientOptions]) -> None:
        """address: HOST:PORT, unix:/PATH, dns:///NAME:PORT or ipv4:HOST:PORT,HOST:PORT.

        Nothing is connected before the first call. Raises ValueError for options that do not go
        together, OSError for a file of TLS that cannot be read.
        """
        self._link = AsyncLink(Core(address, **options))
        self.address = address

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; calls in progress are cancelled."""
        await self._link.close()

    async def metadata(self, **options: Unpack[CallOptions]) -> pb.ServerMetadataResponse:
        """Return name, version and extensions of the server."""
        return await self._link.run(calls.server_metadata(), Wishes(**options))

    async def model_metadata(
        self, name: str, version: str = "", **options: Unpack[CallOptions]
    ) -> pb.ModelMetadataResponse:
        """Return the signature of a model; version "": the one served by default."""
        return await self._link.run(calls.model_metadata(name, version), Wishes(**options))

    async def model_config(
        self, name: str, version: str = "", **options: Unpack[CallOptions]
    ) -> ModelConfig:
        """Return the normalised configuration of a model."""
        return await self._link.run(calls.model_config(name, version), Wishes(**options))

    async def is_ready(
        self, model: str = "", version: str = "", **options: Unpack[CallOptions]
    ) -> bool:
        """Tell whether the server, or one model, is ready. An unknown model is not."""
        return await self._link.run(calls.ready(model, version), Wishes(**options))

    async def index(
        self, **options: Unpack[CallOptions]
    ) -> list[pb.RepositoryIndexResponse.ModelIndex]:
        """Return every version that the server knows, with its state and why it failed."""
        return await self._link.run(calls.index(), Wishes(**options))

    async def statistics(
        self, model: str = "", version: str = "", **options: Unpack[CallOptions]
    ) -> list[pb.ModelStatistics]:
        """Return counts and durations of every ready version, or of those of one model."""
        return await self._link.run(calls.statistics(model, version), Wishes(**options))

    async def health(self, service: str = "", **options: Unpack[CallOptions]) -> str:
        """Return the status of the server ("") or a model: SERVING, NOT_SERVING."""
        return await self._link.run(calls.health(service), Wishes(**options))

    async def load(
        self,
        model: str,
        *,
        config: str = "",
        files: Mapping[str, bytes] | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        """Load a model, or load it again; the server must allow it.

        config: of the model as JSON, in place of its file. files: contents by VERSION/NAME.
        """
        await self._link.run(calls.load(model, config, files or {}), Wishes(**options))

    async def unload(
        self, model: str, *, dependents: bool = False, **options: Unpack[CallOptions]
    ) -> None:
        """Unload a model; the server must allow it. dependents: also those made of it."""
        await self._link.run(calls.unload(model, dependents=dependents), Wishes(**options))

    async def infer(self, model: str, inputs: Inputs, **options: Unpack[InferOptions]) -> Outputs:
        """Run one request and return its outputs by name.

        Raises RequestRefused, ServerUnreachable, MalformedAnswer, and TypeError for an array
        that no datatype can carry.
        """
        wishes = Wishes(**options)
        encoded = await self._link.encode(model, inputs, wishes)
        return await self._link.run(self._link.core.infer_call(model, encoded, wishes), wishes)

    async def classify(
        self, model: str, inputs: Inputs, *, classes: int = 1, **options: Unpack[InferOptions]
    ) -> dict[str, Any]:
        """Run one request and return only the best `classes` elements of each output.

        Each is a list of `Ranked`, best first; of a model that batches a list of them for every
        row. outputs: (): all of the model, which is asked for their names once.
        """
        wishes = Wishes(**options)
        if not wishes.outputs:
            wishes.outputs = (await self._link.signature(model, wishes.version)).outputs
        encoded = await self._link.encode(model, inputs, wishes, classes=classes)
        call = self._link.core.infer_call(model, encoded, wishes)
        return rankings(await self._link.run(call, wishes))

    def infer_many(
        self, model: str, inputs: Inputs, **options: Unpack[InferOptions]
    ) -> AsyncGenerator[Outputs, None]:
        """Run one request of a decoupled model and yield its answers as they come.

        deadline: seconds for all of them; None: none. Closing the generator cancels the request.
        """
        return self._many(model, inputs, Wishes(**options))

    def stream(
        self,
        model: str,
        inputs: Source,
        *,
        window: int = WINDOW,
        decoupled: bool = False,
        **options: Unpack[InferOptions],
    ) -> AsyncGenerator[Answer, None]:
        """Send every element of inputs as a request of one stream; yield answers in order.

        inputs: may be asynchronous, and is iterated in a task of its own. Everything else is as
        in `Client.stream`. Use `contextlib.aclosing` where the loop over it may be left early.
        """
        return self._answers(model, inputs, window, Wishes(**options), is_decoupled=decoupled)

    def open_stream(
        self,
        model: str,
        *,
        window: int = WINDOW,
        decoupled: bool = False,
        **options: Unpack[InferOptions],
    ) -> AsyncStream:
        """Open a stream to send on and receive from, in one task or two.

        deadline: seconds for the whole stream; None: none. The other options hold for every
        request that does not give its own.
        """
        return AsyncStream(
            self._link, model, Wishes(**options), window=window, is_decoupled=decoupled
        )

    def sequence(
        self,
        model: str,
        *,
        sequence_id: int | str | None = None,
        stream: bool = False,
        **options: Unpack[InferOptions],
    ) -> AsyncSequence:
        """Begin a sequence of a model that keeps a state from step to step.

        sequence_id: None: a random integer; 0: none, for a server that keeps states for streams.
        stream: steps go over a stream of their own, in place of unary calls to one server; then
        deadline is for all of them. Steps are never sent twice.
        """
        return AsyncSequence(self._link, model, Wishes(**options), sequence_id, is_stream=stream)

    @asynccontextmanager
    async def shared_memory(self, size: int) -> AsyncIterator[Segment]:
        """Share so many bytes with a server on this host, for inputs that are not to be sent.

        The server must allow it. Arrays of the segment are filled and given as inputs; they and
        the segment are of use inside of the block only. Raises OSError without room for it.
        """
        segment = Segment(size)
        try:
            await self._link.run(calls.register(segment), Wishes())
            try:
                yield segment
            finally:
                with suppress(ServerUnreachable):  # what it knew is gone with it
                    await self._link.run(calls.unregister(segment), Wishes())
        finally:
            segment.unlink()

    # Generators begin at their first anext(); what is wrong with their options is said before.

    async def _many(
        self, model: str, inputs: Inputs, wishes: Wishes
    ) -> AsyncGenerator[Outputs, None]:
        async with AsyncStream(self._link, model, wishes, window=1, is_decoupled=True) as stream:
            await stream.send(inputs)
            await stream.done_sending()
            async for answer in stream:
                outputs = answer.result()
                if outputs or not answer.is_final:  # an empty one only tells the end
                    yield outputs

    async def _answers(
        self, model: str, inputs: Source, window: int, wishes: Wishes, *, is_decoupled: bool
    ) -> AsyncGenerator[Answer, None]:
        async with AsyncStream(
            self._link, model, wishes, window=window, is_decoupled=is_decoupled, source=inputs
        ) as stream:
            async for answer in stream:
                yield answer
