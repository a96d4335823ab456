"""The synchronous client: numpy arrays in, numpy arrays out, over gRPC.

Knows the wire and nothing of what serves it: any server of the Open Inference Protocol answers
`infer`, any that has Triton's extensions the rest.
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self, Unpack

from service.client import calls
from service.client.core import Core
from service.client.errors import ServerUnreachable
from service.client.ledger import Answer
from service.client.link import Link
from service.client.options import CallOptions, ClientOptions, InferOptions, Wishes
from service.client.ranking import rankings
from service.client.requests import Inputs
from service.client.responses import Outputs
from service.client.segment import Segment
from service.client.sequence import Sequence
from service.client.stream import WINDOW, Stream
from service.pb import grpc_service_pb2 as pb
from service.pb.model_config_pb2 import ModelConfig


class Client:
    """One channel to one server. Methods may be called from several threads, and not after a fork.

    Inputs are arrays, or what numpy makes arrays of; those that are None are left out. Arrays of
    uint16 are sent as UINT16 or BF16, as the model asks; those of ml_dtypes.bfloat16 as BF16.
    BYTES tensors are arrays of bytes or str on the way in, object arrays of bytes on the way out.
    Outputs own their memory; BF16 comes as uint16, of which `.view(ml_dtypes.bfloat16)` is a view.
    Every method raises ClientError.
    """

    def __init__(self, address: str, **options: Unpack[ClientOptions]) -> None:
        """address: HOST:PORT, unix:/PATH, dns:///NAME:PORT or ipv4:HOST:PORT,HOST:PORT.

        Nothing is connected before the first call. Raises ValueError for options that do not go
        together, OSError for a file of TLS that cannot be read.
        """
        self._link = Link(Core(address, **options))
        self.address = address

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls in progress are cancelled."""
        self._link.close()

    def metadata(self, **options: Unpack[CallOptions]) -> pb.ServerMetadataResponse:
        """Return name, version and extensions of the server."""
        return self._link.run(calls.server_metadata(), Wishes(**options))

    def model_metadata(
        self, name: str, version: str = "", **options: Unpack[CallOptions]
    ) -> pb.ModelMetadataResponse:
        """Return the signature of a model; version "": the one served by default."""
        return self._link.run(calls.model_metadata(name, version), Wishes(**options))

    def model_config(
        self, name: str, version: str = "", **options: Unpack[CallOptions]
    ) -> ModelConfig:
        """Return the normalised configuration of a model."""
        return self._link.run(calls.model_config(name, version), Wishes(**options))

    def is_ready(self, model: str = "", version: str = "", **options: Unpack[CallOptions]) -> bool:
        """Tell whether the server, or one model, is ready. An unknown model is not."""
        return self._link.run(calls.ready(model, version), Wishes(**options))

    def index(self, **options: Unpack[CallOptions]) -> list[pb.RepositoryIndexResponse.ModelIndex]:
        """Return every version that the server knows, with its state and why it failed."""
        return self._link.run(calls.index(), Wishes(**options))

    def statistics(
        self, model: str = "", version: str = "", **options: Unpack[CallOptions]
    ) -> list[pb.ModelStatistics]:
        """Return counts and durations of every ready version, or of those of one model."""
        return self._link.run(calls.statistics(model, version), Wishes(**options))

    def health(self, service: str = "", **options: Unpack[CallOptions]) -> str:
        """Return the status of the server ("") or a model: SERVING, NOT_SERVING."""
        return self._link.run(calls.health(service), Wishes(**options))

    def load(
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
        self._link.run(calls.load(model, config, files or {}), Wishes(**options))

    def unload(
        self, model: str, *, dependents: bool = False, **options: Unpack[CallOptions]
    ) -> None:
        """Unload a model; the server must allow it. dependents: also those made of it."""
        self._link.run(calls.unload(model, dependents=dependents), Wishes(**options))

    def infer(self, model: str, inputs: Inputs, **options: Unpack[InferOptions]) -> Outputs:
        """Run one request and return its outputs by name.

        Raises RequestRefused, ServerUnreachable, MalformedAnswer, and TypeError for an array
        that no datatype can carry.
        """
        wishes = Wishes(**options)
        encoded = self._link.encode(model, inputs, wishes)
        return self._link.run(self._link.core.infer_call(model, encoded, wishes), wishes)

    def classify(
        self, model: str, inputs: Inputs, *, classes: int = 1, **options: Unpack[InferOptions]
    ) -> dict[str, Any]:
        """Run one request and return only the best `classes` elements of each output.

        Each is a list of `Ranked`, best first; of a model that batches a list of them for every
        row. outputs: (): all of the model, which is asked for their names once.
        """
        wishes = Wishes(**options)
        if not wishes.outputs:
            wishes.outputs = (self._link.signature(model, wishes.version)).outputs
        encoded = self._link.encode(model, inputs, wishes, classes=classes)
        call = self._link.core.infer_call(model, encoded, wishes)
        return rankings(self._link.run(call, wishes))

    def infer_many(
        self, model: str, inputs: Inputs, **options: Unpack[InferOptions]
    ) -> Generator[Outputs, None, None]:
        """Run one request of a decoupled model and yield its answers as they come.

        deadline: seconds for all of them; None: none. Closing the generator cancels the request.
        """
        return self._many(model, inputs, Wishes(**options))

    def stream(
        self,
        model: str,
        inputs: Iterable[Inputs],
        *,
        window: int = WINDOW,
        decoupled: bool = False,
        **options: Unpack[InferOptions],
    ) -> Generator[Answer, None, None]:
        """Send every element of inputs as a request of one stream; yield answers in order.

        At most `window` requests are unanswered or unread at a time, so inputs may be endless.
        inputs is iterated on another thread; what it raises is raised here after the answers to
        what it gave. deadline: seconds for the whole stream; None: none. A failed request is an
        Answer with an error and the stream goes on; closing the generator cancels what is left.
        decoupled: requests have any number of answers, those of several mix, and the last of
        each may be empty. Raises ClientError if the stream breaks.
        """
        return self._answers(model, inputs, window, Wishes(**options), is_decoupled=decoupled)

    def open_stream(
        self,
        model: str,
        *,
        window: int = WINDOW,
        decoupled: bool = False,
        **options: Unpack[InferOptions],
    ) -> Stream:
        """Open a stream to send on and receive from, with one thread or two.

        deadline: seconds for the whole stream; None: none. The other options hold for every
        request that does not give its own.
        """
        return Stream(self._link, model, Wishes(**options), window=window, is_decoupled=decoupled)

    def sequence(
        self,
        model: str,
        *,
        sequence_id: int | str | None = None,
        stream: bool = False,
        **options: Unpack[InferOptions],
    ) -> Sequence:
        """Begin a sequence of a model that keeps a state from step to step.

        sequence_id: None: a random integer; 0: none, for a server that keeps states for streams.
        stream: steps go over a stream of their own, in place of unary calls to one server; then
        deadline is for all of them. Steps are never sent twice.
        """
        return Sequence(self._link, model, Wishes(**options), sequence_id, is_stream=stream)

    @contextmanager
    def shared_memory(self, size: int) -> Iterator[Segment]:
        """Share so many bytes with a server on this host, for inputs that are not to be sent.

        The server must allow it. Arrays of the segment are filled and given as inputs; they and
        the segment are of use inside of the block only. Raises OSError without room for it.
        """
        segment = Segment(size)
        try:
            self._link.run(calls.register(segment), Wishes())
            try:
                yield segment
            finally:
                with suppress(ServerUnreachable):  # what it knew is gone with it
                    self._link.run(calls.unregister(segment), Wishes())
        finally:
            segment.unlink()

    # Generators begin at their first next(); what is wrong with their options is said before.

    def _many(self, model: str, inputs: Inputs, wishes: Wishes) -> Generator[Outputs, None, None]:
        with Stream(self._link, model, wishes, window=1, is_decoupled=True) as stream:
            stream.send(inputs)
            stream.done_sending()
            for answer in stream:
                outputs = answer.result()
                if outputs or not answer.is_final:  # an empty one only tells the end
                    yield outputs

    def _answers(
        self,
        model: str,
        inputs: Iterable[Inputs],
        window: int,
        wishes: Wishes,
        *,
        is_decoupled: bool,
    ) -> Generator[Answer, None, None]:
        with Stream(
            self._link, model, wishes, window=window, is_decoupled=is_decoupled, source=inputs
        ) as stream:
            yield from stream
