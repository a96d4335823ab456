"""A native transport with a lane, and one connection to it, both driven by the test's own thread.

Nothing is read from the network but in `LaneBench.take`, so whatever was sent before it is there
at once and is bundled together.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.plan import cut_message
from service.rpc.wire import length_delimited
from service.tensors import FP32
from service.transport.native import native_transport
from service.transport.seam import Arity, Bundle, Event, Kind, Lane, LaneMethods, Limits, Transport
from tests.support.http2 import Answer, RawClient, framed
from tests.support.requests import raw_request
from tests.support.waiting import WAIT_S, eventually

UNARY = "/test.Lane/Unary"
STREAM = "/test.Lane/Stream"
OTHER = "/test.Lane/Other"  # not on the lane
TRAILERS = ("first-us", "second-us")
_METHODS = {UNARY: Arity.UNARY, STREAM: Arity.STREAM, OTHER: Arity.UNARY}
FIXED, TAIL = length_delimited(1, b"model"), length_delimited(4, b"tail")  # of answers
_TAKE_S = 0.02


@dataclass
class LaneBench:
    """The transport, a connection, and what has come up."""

    transport: Transport
    lane: Lane
    address: str
    client: RawClient
    events: list[Event] = field(default_factory=list)

    def take(self, until: Callable[[list[Event]], object]) -> list[Event]:
        """Take events until they are what is waited for, and return those that came."""
        came: list[Event] = []

        def enough() -> bool:
            came.extend(self.transport.take(64, _TAKE_S))
            return bool(until(came))

        eventually(enough, f"the events that are waited for, after {came}")
        self.events += came
        return came

    def bundles(self, requests: int) -> list[Bundle]:
        """Take events until bundles with so many requests have come, and return the bundles."""
        return bundles_of(self.take(lambda came: count_of(came) >= requests))

    def bundle(self, requests: int) -> Bundle:
        """Take events until a bundle with so many requests has come, alone."""
        (only,) = self.bundles(requests)
        assert only.count == requests
        return only

    def request(self, message: bytes, path: str = UNARY, /, **headers: bytes) -> int:
        """Send a unary call, and return its stream of HTTP/2."""
        stream = self.client.open(path.encode(), **headers)
        self.client.send(stream, framed(message))
        return stream

    def requests(self, *messages: bytes) -> list[int]:
        """Send unary calls."""
        return [self.request(message) for message in messages]

    def stream(self, *messages: bytes, ends: bool = False, **headers: bytes) -> int:
        """Open a stream and send messages on it."""
        stream = self.client.open(STREAM.encode(), **headers)
        self.client.send(stream, b"".join(map(framed, messages)), ends=ends)
        return stream

    def answers(self, *streams: int) -> dict[int, Answer]:
        """Wait for the end of streams of HTTP/2 while events are taken."""
        found: dict[int, Answer] = {}
        reader = threading.Thread(target=lambda: found.update(self.client.answers(*streams)))
        reader.start()
        self.take(lambda _came: not reader.is_alive())
        reader.join(WAIT_S)
        return found

    def learn(
        self,
        message: bytes,
        *,
        rows: int = 1,
        max_rows: int = 64,
        plan: object = "plan",
    ) -> None:
        """Teach the lane the form of a message, as the engine does."""
        head, sizes = form_of(message)
        self.lane.learn(head, sizes, rows, max_rows, plan)


@contextmanager
def lane_bench(
    *, workers: int = 0, compress_replies: bool = False, limits: Limits | None = None
) -> Iterator[LaneBench]:
    """Run a transport with a lane, which knows nothing yet, and connect to it."""
    transport = native_transport(
        ["127.0.0.1:0"],
        _METHODS,
        limits,
        compress_replies=compress_replies,
        network_threads=workers,
        lane=LaneMethods((UNARY, STREAM), TRAILERS),
    )
    (address,) = transport.start()
    assert transport.lane is not None
    try:
        with RawClient(address) as client:
            yield LaneBench(transport, transport.lane, address, client)
    finally:
        transport.close()


def message_of(*values: float, request_id: str = "", rows: int = 1, model: str = "m") -> bytes:
    """Return a request with an input for each value, which all of its elements have."""
    inputs = {
        f"X{index}": (FP32, np.full((rows, index + 1), value, np.float32))
        for index, value in enumerate(values)
    }
    return raw_request(model, inputs, request_id=request_id).SerializeToString()


def contents_of(message: bytes, index: int = 0) -> bytes:
    """Return the raw contents of one input."""
    return ModelInferRequest.FromString(message).raw_input_contents[index]


def form_of(message: bytes) -> tuple[bytes, list[int]]:
    """Return the head of a message and the sizes of its contents."""
    cut = cut_message(message)
    assert cut is not None
    return cut.head, [end - start for start, end in cut.raws]


def bundles_of(events: Sequence[Event]) -> list[Bundle]:
    """Return the bundles that came with requests."""
    return [event.bundle for event in events if event.kind is Kind.BUNDLE and event.bundle]


def count_of(events: Sequence[Event]) -> int:
    """Return how many requests came in bundles."""
    return sum(bundle.count for bundle in bundles_of(events))


def ids_of(bundle: Bundle) -> list[str]:
    """Return the ids of the requests in a bundle."""
    return [request_id for _, _, request_id in bundle.members()]


def rows_of(bundle: Bundle) -> list[bytes]:
    """Return the contents of the first input, request by request."""
    contents, count = bundle.input(0), bundle.count
    size = len(contents) // count
    return [contents[at * size : (at + 1) * size] for at in range(count)]


def body(request_id: str, *rows: bytes) -> bytes:
    """Return the answer to one request, with FIXED in front."""
    field = length_delimited(3, request_id.encode()) if request_id else b""
    return FIXED + field + b"".join(length_delimited(6, row) for row in rows)
