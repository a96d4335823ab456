"""The seam to the network: bytes in, bytes out, in bursts.

A transport knows HTTP/2 and gRPC and nothing of inference. It hands events up in bursts
(`Transport.take`, one caller at a time) and takes answers from any thread (`Call`). Everything
above it is the same for every transport, and one conformance suite runs against each.

A transport may have a lane: taught what a request of some form asks for, it hands up further
requests of this form in bundles, with their inputs side by side, and answers a bundle at once.

A unary call is one REQUEST event and is answered by one `finish(OK, reply=...)`. A streaming
call is OPENED, any number of MESSAGE events, then HALF_CLOSED; it is answered by `send` and
ended by `finish`. CANCELLED comes at most once, and only before the call has been finished: the
peer reset it, lost the connection, or its deadline passed. Nothing follows it.

Answers given by ticket leave in the order of the messages (`answer`). A message that has any
number of answers, at any time, is taken out of this order (`detach`), answered by `send`, and
settled by the last of them or by `settle`.

Flow control: a stream is handed at most `window` messages that are not yet settled. `send(...,
settles=n)` settles n of them when the network has taken the answer, `settle(n)` at once. A peer
that does not read its answers is therefore not read from either, and memory stays bounded: a
producer of many answers waits when `send` returns False, and goes on with WRITABLE.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Protocol, TypeAlias

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]


class Code(IntEnum):
    """The status codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Arity(Enum):
    """How many messages a method takes and gives."""

    UNARY = "unary"  # one in, one out
    STREAM = "stream"  # any number in, any number out, independent of each other


class Kind(Enum):
    """What an event says."""

    REQUEST = "request"  # a unary call with its only message
    OPENED = "opened"  # a streaming call; its messages follow
    MESSAGE = "message"  # one message of a streaming call
    HALF_CLOSED = "half-closed"  # the peer sends no more
    CANCELLED = "cancelled"  # the peer has left or the deadline has passed
    BUNDLE = "bundle"  # requests and messages that the lane knows; `Event.bundle` has them
    SHRUNK = "shrunk"  # callers of a bundle have left
    WRITABLE = "writable"  # a stream on which `send` returned False has room again


class Call(Protocol):
    """One RPC. Every method may be called from any thread, at any time, more than once."""

    @property
    def method(self) -> str:
        """Full name, e.g. "/inference.GRPCInferenceService/ModelInfer"."""

    @property
    def metadata(self) -> Metadata:
        """What the peer sent: lower-case keys; values of "-bin" keys are bytes."""

    @property
    def peer(self) -> str:
        """Address of the peer, for logs."""

    @property
    def deadline(self) -> float | None:
        """When the caller gives up, in seconds of time.monotonic; None: never."""

    def send_initial_metadata(self, metadata: Metadata) -> None:
        """Send metadata ahead of the answer, at once. On a call that has ended it does nothing.

        Raises ValueError if something was sent before, or for what cannot be sent: names are in
        lower case and not gRPC's own, values printable ASCII, or bytes where the name ends in -bin.
        """

    def send(self, message: bytes, *, settles: int = 0) -> bool:
        """Send one message of a streaming call.

        settles: how many received messages this answer completes.
        Returns False if the outgoing window is full: the message is queued all the same, but a
        producer of many answers should wait for WRITABLE, which follows unless the call ends
        before. On a call that has ended it does nothing and returns True.
        """

    def detach(self, ticket: int) -> None:
        """Take the message with this ticket out of the order of answers.

        It holds no other answer back and none holds it back; `send` answers it, and it is open
        until it is settled. Without effect on a message that is answered or detached.
        """

    def answer(self, ticket: int, message: bytes) -> bool:
        """Answer the message with this ticket, which settles it.

        The answers of a stream leave in the order of its messages, whatever the order in which
        they are given. Returns like `send`, but no WRITABLE follows. Without effect on a message
        that is detached.
        """

    def finish_answered(self, code: Code, message: str = "", *, trailers: Metadata = ()) -> None:
        """End a streaming call once every message that was handed up is answered.

        Those that are detached are waited for until they are settled. Of several the last one
        before that counts. After `finish` it has no effect.
        """

    def settle(self, count: int) -> None:
        """Say that count received messages are done with and have no answer to wait for."""

    def finish(
        self,
        code: Code,
        message: str = "",
        *,
        reply: bytes | None = None,
        trailers: Metadata = (),
    ) -> None:
        """End the call, after everything sent before. Only the first call has an effect.

        reply: the answer of a unary call, required with OK and ignored otherwise.
        message: text for the caller; any length and any characters, the transport encodes it.
        trailers: as send_initial_metadata has it, and "grpc-status-details-bin". Raises ValueError
        for what cannot be sent; the call is not ended then.
        """


class Bundle(Protocol):
    """Requests of one plan, in the order in which they came.

    It is used by one thread at a time, but for `owner` and `waiting`. A bundle that is emptied
    has lost its owner before its requests.
    """

    @property
    def plan(self) -> Any:
        """What was taught with the head of these requests."""

    @property
    def count(self) -> int:
        """How many there are; 0 once they have been answered or taken out."""

    @property
    def waiting(self) -> int:
        """How many of their callers have not left."""

    @property
    def deadlines(self) -> tuple[float, float] | None:
        """The earliest and the latest, as in Call; either all requests have one or none."""

    owner: Any  # what the engine keeps with the bundle until it is empty

    def strip(self) -> int:
        """Take out the requests whose callers have left, and return how many stay."""

    def input(self, index: int) -> bytes:
        """Return the contents of one input, request after request."""

    def answer(
        self,
        fixed: bytes,
        outputs: Sequence[bytes],
        *,
        tail: bytes = b"",
        trailers: Sequence[int] = (),
        work_ns: int | None = None,
    ) -> None:
        """Answer every request at once, and empty the bundle.

        fixed: fields of the answers that come before the id. outputs: contents of whole arrays
        that have the same number of rows for each request. tail: fields at the end of an answer
        on a stream. trailers: for unary calls, of the names that the lane was made with.
        work_ns: how long the model worked for these answers; see Lane.overhead.
        """

    def release(self) -> None:
        """Let go of the contents: they have been copied, and `events` is not called any more."""

    def clear(self) -> None:
        """Empty the bundle: its requests are answered."""

    def members(self) -> Sequence[tuple[Call, int, str]]:
        """Return call, ticket and id of each request, which stay in the bundle."""

    def split(self) -> Sequence["Bundle"]:
        """Empty the bundle into one bundle for each request."""

    def events(self) -> Sequence["Event"]:
        """Empty the bundle into one event for each request, as without a lane."""


@dataclass(frozen=True, slots=True)
class LaneMethods:
    """What a lane is made for.

    methods: take ModelInferRequest and answer with ModelInferResponse, streams with
    ModelStreamInferResponse. trailers: names of the numbers that come with a unary answer.
    """

    methods: tuple[str, ...]
    trailers: tuple[str, ...] = ()


class Lane(Protocol):
    """What a transport can be taught about the methods that it was made with."""

    def learn(
        self, head: bytes, sizes: Sequence[int], rows: int, max_rows: int, plan: object
    ) -> None:
        """Hand up requests with this head in bundles from now on.

        head: what is neither id nor raw contents. sizes: bytes of the contents of each input.
        rows: of one request; max_rows: of the largest bundle. plan: what the bundles carry.
        """

    def forget(self) -> None:
        """Forget every head. Bundles that were handed up before stay as they are."""

    def overhead(self) -> tuple[Sequence[int], Sequence[int], int]:
        """Return how long unary requests were in the server, less the work for them.

        From the last byte read to the answer's first byte in the kernel, of answers that came
        with work_ns: upper bounds in microseconds, counts (one more, without a bound), and the
        sum in nanoseconds.
        """

    def shrunk(self) -> Sequence[Bundle]:
        """Return the bundles of which calls have ended since they were last handed up so.

        Those that peers have left come as SHRUNK; this is for calls that the engine finished.
        """


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a call. message: only with REQUEST and MESSAGE.

    ticket: with MESSAGE, its place in the order of answers. bundle: with BUNDLE and SHRUNK,
    which are about several calls and have none in `call`.
    """

    kind: Kind
    call: Call
    message: bytes = b""
    ticket: int = 0
    bundle: Bundle | None = None


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files. client_ca: if given, clients must present a certificate of it."""

    certificate: str
    key: str
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a transport allows its peers. A time of None means never."""

    message_bytes: int = 64 << 20  # largest message, after decompression; inclusive
    header_bytes: int = 16 << 10  # all headers of one call, as HTTP/2 counts them
    received_bytes: int = 1 << 30  # received for calls in progress, all connections together
    unsent_bytes: int = 128 << 20  # answers that one connection has not taken
    unsent_total_bytes: int = 1 << 30  # the same of all connections
    concurrent_calls: int = 256  # calls in progress, all connections together
    streams_per_connection: int = 128  # calls in progress on one connection
    connections: int = 2000
    stream_window: int = 64  # unsettled messages of one stream
    stream_window_bytes: int = 64 << 20  # with fewer bytes unsettled the next one is handed up
    outgoing_window_bytes: int = 1 << 20  # unsent on one stream; its producers wait above it
    resets_per_second: int = 5000  # of one connection; a second's worth may come at once
    control_frames_per_second: int = 1000  # PING, SETTINGS, PRIORITY of one connection
    keepalive_time_s: float | None = 60.0  # ping a peer that is silent for so long
    keepalive_timeout_s: float = 20.0  # and drop it when it does not answer so long
    min_ping_interval_s: float | None = 10.0  # a peer that pings more often is dropped
    connection_idle_s: float | None = None  # a connection without calls is closed after it
    connection_age_s: float | None = None  # any connection is told to go away after it
    connection_age_grace_s: float = 300.0  # and dropped after so much more
    handshake_timeout_s: float = 10.0
    send_timeout_s: float | None = 300.0  # a peer that takes nothing for so long is dropped


class Transport(Protocol):
    """A gRPC server without methods of its own."""

    @property
    def name(self) -> str:
        """Name of the implementation, e.g. "threaded"."""

    @property
    def lane(self) -> Lane | None:
        """The lane, where the transport has one."""

    def start(self) -> Sequence[str]:
        """Listen and return the addresses with real ports, e.g. "127.0.0.1:8001".

        Raises SettingsError if an address cannot be bound.
        """

    def take(self, max_events: int, timeout: float | None) -> list[Event]:
        """Wait for events and return up to max_events of them, oldest first.

        timeout: seconds; None waits for ever. Empty after the time-out, and at once when the
        transport is closed. Events of one call come in order.
        """

    def drain(self, timeout: float) -> bool:
        """Refuse new calls and wait until those in progress have ended. True if all have."""

    def reload_tls(self) -> None:
        """Load the TLS files now, for new connections; those that change are noticed besides.

        Raises SettingsError if they cannot be used, the old ones stay in use then.
        """

    def close(self) -> None:
        """Abort what is left, release the addresses and wake up `take`."""

    @property
    def closed(self) -> bool:
        """True after close."""

    def counters(self) -> Mapping[str, int]:
        """Return figures for the metrics endpoint: totals end in "_total", the rest is of now."""


Methods: TypeAlias = Mapping[str, Arity]  # what a transport serves; others: UNIMPLEMENTED
