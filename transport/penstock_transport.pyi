"""gRPC over HTTP/2: bytes in, bytes out, in bursts.

A transport knows HTTP/2 and gRPC and nothing of what its methods mean. `Server.take` hands up what
happened on all connections; `Call` takes answers, from any thread and at any time.

A unary call is one "request" event and is answered by one `finish(0, reply=...)`. A streaming call
is "opened", any number of "message" events, then "half-closed"; it is answered by `send` and ended
by `finish`. "cancelled" comes at most once, never after `finish`, and nothing follows it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias, final

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

@final
class Call:
    """One RPC. All events of a call carry the same object."""

    @property
    def method(self) -> str:
        """Full name, e.g. "/inference.GRPCInferenceService/ModelInfer"."""
    @property
    def metadata(self) -> Metadata:
        """What the peer sent: lower-case keys; values of "-bin" keys are bytes."""
    @property
    def peer(self) -> str:
        """Address of the peer, for logs; "unix" on a Unix socket."""
    @property
    def peer_certificate(self) -> bytes | None:
        """The client's TLS certificate, DER, when it presented one."""
    @property
    def deadline(self) -> float | None:
        """When the caller gives up, in seconds of time.monotonic; None: never."""
    @property
    def context(self) -> Any:
        """Whatever the application keeps with the call; None at first."""
    @context.setter
    def context(self, context: Any) -> None: ...
    def send_initial_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Send metadata ahead of the answer, at once. On a call that has ended it does nothing.

        Raises ValueError if something was sent before, and for metadata that cannot be written.
        """
    def send(self, message: bytes, *, settles: int = 0) -> bool:
        """Send one message of a streaming call.

        settles: how many received messages are settled when the network has taken this one.
        Returns False if the outgoing window is full: the message is queued all the same, but a
        producer of many answers should wait for "writable", which follows when half of the window
        is free, unless the call ends before. On a call that has ended it does nothing.
        """
    def detach(self, ticket: int) -> None:
        """Take the message with this ticket out of the order of answers.

        It holds no other answer back and none holds it back; `send` answers it, and it is open
        until it is settled. Without effect on a message that is answered or detached.
        """
    def answer(self, ticket: int, message: bytes) -> bool:
        """Answer the message with this ticket, which settles it.

        Answers leave in the order of the messages, whatever the order in which they are given.
        Returns like `send`, but no "writable" follows. Without effect on a detached message.
        """
    def finish_answered(
        self,
        code: int,
        message: str = "",
        *,
        trailers: Iterable[tuple[str, str | bytes]] = (),
    ) -> None:
        """End a streaming call once every message that was handed up is answered.

        Of several the last one before that counts. After `finish` it has no effect.
        """
    def settle(self, count: int) -> None:
        """Settle the count oldest received messages at once."""
    def finish(
        self,
        code: int,
        message: str = "",
        *,
        reply: bytes | None = None,
        trailers: Iterable[tuple[str, str | bytes]] = (),
    ) -> None:
        """End the call, after everything sent before. Only the first call has an effect.

        reply: the answer of a unary call, required with code 0 and ignored otherwise.
        message: any characters; one of more than 4 KiB, percent-encoded, is cut.
        Raises ValueError for a code that is not gRPC's and for trailers that cannot be written;
        the call is not ended then.
        """

@final
class Event:
    """Something that happened to a call."""

    @property
    def kind(self) -> Any:
        """One of the objects given as kinds."""
    @property
    def call(self) -> Call: ...
    @property
    def message(self) -> bytes:
        """The message of "request" and "message"; else empty."""
    @property
    def ticket(self) -> int:
        """With "message": its place in the order of answers."""
    @property
    def bundle(self) -> Bundle | None:
        """With "bundle" and "shrunk", which have no call."""

@final
class Bundle:
    """Requests of one plan, in the order in which they came. Used by one thread at a time."""

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
        """The earliest and the latest; either all requests have one or none."""
    @property
    def owner(self) -> Any:
        """Whatever the application keeps with the bundle until it is empty."""
    @owner.setter
    def owner(self, owner: Any) -> None: ...
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
            with the same number of rows for each request. tail: fields at the end of an answer
            on a stream. trailers: values for `lane_trailers`, for unary calls.
        work_ns: how long the application worked for these answers; see `Server.overhead`.
        A call whose answer would be longer than a message can be ends with INTERNAL.
        """
    def release(self) -> None:
        """Let go of the contents: they have been copied, and `events` is not called any more."""
    def clear(self) -> None:
        """Empty the bundle: its requests are answered."""
    def members(self) -> list[tuple[Call, int, str]]:
        """Call, ticket and id of each request, which stay in the bundle."""
    def split(self) -> list[Bundle]:
        """Empty the bundle into one bundle for each request."""
    def events(self) -> list[Event]:
        """Empty the bundle into one event for each request, as without a lane."""

@final
class Server:
    """A gRPC server without methods of its own. Every method may be called from any thread."""

    def __init__(
        self,
        addresses: Sequence[str],
        methods: Mapping[str, Any],
        *,
        kinds: Sequence[Any] | None = None,
        lane: Sequence[str] = (),
        lane_trailers: Sequence[str] = (),
        workers: int = 0,
        tls_certificate: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
        tls_client_ca: str | PathLike[str] | None = None,
        tls_reloaded: Callable[[str | None], object] | None = None,
        message_bytes: int = ...,
        concurrent_calls: int = 256,
        streams_per_connection: int = 128,
        connections: int = 2000,
        header_list_bytes: int = ...,
        stream_window: int = 64,
        stream_window_bytes: int = ...,
        buffered_bytes: int = ...,
        outgoing_window_bytes: int = ...,
        connection_outgoing_bytes: int = ...,
        outgoing_bytes: int = ...,
        compress_replies: bool = False,
        http2_stream_window: int = ...,
        http2_connection_window: int = ...,
        resets_per_second: int = 5000,
        control_frames_per_second: int = 1000,
        keepalive_time_s: float | None = 60.0,
        keepalive_timeout_s: float = 20.0,
        min_ping_interval_s: float | None = 10.0,
        connection_idle_s: float | None = None,
        connection_age_s: float | None = None,
        connection_age_grace_s: float = 300.0,
        handshake_timeout_s: float = 10.0,
        send_timeout_s: float | None = 300.0,
    ) -> None:
        """Check the settings and load the TLS files; nothing is bound yet.

        addresses: "host:port", port 0 for a free one, or "unix:/path".
        methods: path -> "unary" or "stream", or a member of an enumeration of these values.
        kinds: what `Event.kind` is, in this order: request, opened, message, half-closed,
            cancelled, bundle, shrunk, writable; these words by default. Without the last one
            there are no such events.
        lane: methods whose messages may be recognised, see `learn`. lane_trailers: names of the
            numbers that come with the unary answers of a bundle.
        tls_reloaded: told of TLS files that have changed by themselves: None when they are in
            use, else what is wrong with them. Called on a thread of its own.
        workers: threads for the network; with 0 it is served by whoever is in `take`, which saves
            two wake-ups a burst: answers leave, and deadlines are kept, while somebody is.
        message_bytes: largest message, inflated; one of exactly this size is let through.
        concurrent_calls: calls in progress, all connections together.
        streams_per_connection: calls in progress on one connection.
        connections: open connections, those in their handshake included.
        header_list_bytes: all headers of one request, as HTTP/2 counts them.
        stream_window, stream_window_bytes: unsettled messages of one stream, and the size at
            which no further one is read.
        buffered_bytes: received bytes held for calls in progress, all connections together.
        outgoing_window_bytes: unsent bytes of a call above which `send` returns False.
        connection_outgoing_bytes: unsent bytes of a connection above which its new calls are
            refused.
        outgoing_bytes: unsent bytes of all connections above which those that hold more than
            their share are refused new calls.
        compress_replies: with gzip, for peers that take it, where it pays: not below two packets.
        http2_stream_window, http2_connection_window: flow-control windows of HTTP/2.
        resets_per_second: RST_STREAM frames of one peer; a second's worth may come at once.
        control_frames_per_second: its PING, SETTINGS and PRIORITY frames, likewise.
        keepalive_time_s: a peer that is silent for so long is pinged, and dropped when it says
            nothing for keepalive_timeout_s more.
        min_ping_interval_s: a peer that pings more often without being answered is dropped.
        connection_idle_s, connection_age_s: a connection without calls, or of any kind, is told
            to go away after so long, and dropped after connection_age_grace_s more; without calls,
            after keepalive_timeout_s.
        handshake_timeout_s: for TLS and the first bytes of HTTP/2.
        send_timeout_s: a peer that takes nothing of what waits for it is dropped.
        None, where it is allowed, means never.
        Raises ValueError for a setting out of range and for TLS files that cannot be used.
        """
    @property
    def name(self) -> str:
        """The word "native"."""
    def start(self) -> list[str]:
        """Listen, once, and return the addresses with their real ports.

        Raises OSError that names the address if one cannot be bound.
        """
    def take(self, max_events: int, timeout: float | None = None) -> list[Event]:
        """Wait for events and return up to max_events of them, oldest first.

        timeout: seconds; None waits for ever, signals do not interrupt it. Empty after the
        time-out, and at once when the server is closed. Events of one call come in order.
        """
    def learn(
        self, head: bytes, sizes: Sequence[int], rows: int, max_rows: int, plan: object
    ) -> None:
        """Hand up further messages with this head in bundles, as events of kind "bundle".

        A message on the lane is protobuf: field 3 its id, fields 7 raw contents, the rest its
            head. sizes: bytes of each of its contents. rows: of one request; max_rows: of the
            largest bundle. plan: what the bundles carry.
        An answer has `fixed`, field 3 the id, fields 6 the rows of each output and, on a stream,
            `tail`, all of it in field 2.
        """
    def forget(self) -> None:
        """Forget every head."""
    def shrunk(self) -> list[Bundle]:
        """Return the bundles of which calls have ended since they were last given out so."""
    @staticmethod
    def reply_many(replies: Iterable[tuple[Call, bytes]]) -> None:
        """Answer many calls with one wake-up of the network a connection.

        A unary call is finished with code 0; on a streaming call the message is sent and settles
        one. Cheaper than as many calls of `finish` or `send`.
        """
    def drain(self, timeout: float) -> bool:
        """Refuse new calls and wait until those in progress have ended. True if all have."""
    def close(self) -> None:
        """Abort what is left, release the addresses and wake up `take`."""
    @property
    def closed(self) -> bool:
        """True after close."""
    def reload_tls(self) -> None:
        """Load the TLS files now. New connections also look for changed files by themselves.

        Raises ValueError if they cannot be used; the old ones stay in use then.
        """
    def overhead(self) -> tuple[list[int], list[int], int]:
        """Return how long unary requests were in the server, less the work for them.

        From the last byte read to the answer's first byte in the kernel, of answers that came
        with `work_ns`: upper bounds in microseconds, counts (one more, without a bound), and the
        sum in nanoseconds.
        """
    def counters(self) -> dict[str, int]:
        """Return totals, whose names end in "_total", and how much is in progress now, by name."""

@final
class Peer:
    """A server as its clients see it: an address and how it is spoken to. Nothing is connected."""

    def __init__(
        self,
        address: str,
        *,
        metadata: Sequence[tuple[str, str | bytes]] = (),
        tls: bool = False,
        tls_ca: str | PathLike[str] | None = None,
        tls_certificate: str | PathLike[str] | None = None,
        tls_key: str | PathLike[str] | None = None,
        tls_name: str | None = None,
        tls_verify: bool = True,
    ) -> None:
        """address: "host:port" or "unix:/path".

        metadata: sent with every call. tls_ca: who vouches for the server; with tls_verify=False,
        and only then, it is not needed and nobody does. tls_certificate, tls_key: our own.
        tls_name: name in the server's certificate, if it is not that of the address.
        Raises ValueError for an address, metadata or files that cannot be used, TypeError for
        settings of TLS that do not go together.
        """
    def call(self, path: str, message: bytes, timeout_s: float = 10.0) -> tuple[int, str, bytes]:
        """Call a unary method on a connection of its own; return code, status text and reply.

        Raises OSError if there is no connection, or no answer in time.
        """

@final
class Load:
    """A load generator: ready-made messages to one method of a peer, on a schedule."""

    def __init__(
        self,
        peer: Peer,
        path: str,
        messages: Sequence[bytes],
        *,
        in_flight: int | None = None,
        per_second: float | None = None,
        seed: int = 0,
        connections: int = 1,
        threads: int = 1,
        streams: int = 0,
        id_at: Sequence[int] = (),
        reply_id: Sequence[int] = (),
        reply_error: Sequence[int] = (),
        timings: Sequence[str] = (),
        most_in_flight: int = 10_000,
        timeout_s: float = 60.0,
    ) -> None:
        """messages: sent in turn by each connection.

        in_flight: closed loop: so many requests, over all connections, are sent and not answered.
        per_second: open loop: requests arrive at this mean rate, as a Poisson process that seed
            decides, whether others are answered or not. A request's latency counts from when it
            was to be sent, so waiting in the client is part of it. Give one of the two.
        connections, threads: of the client. A thread drives its connections without waiting.
        streams: 0: each message is a unary call. Else the messages go out on so many calls that
            stay open, spread over the connections.
        id_at: where in each message 8 bytes are overwritten with a number, on streams.
        reply_id: numbers of the protobuf fields that lead to that id in a reply, for answers that
            come out of order; where a reply has none, answers come in order.
        reply_error: the same for the text of an error: a reply that has one is a failure.
        timings: trailers that hold whole microseconds, recorded for each unary answer.
        most_in_flight: no more are sent in open loop, and what is due waits in the client.
        timeout_s: an older request has failed with DEADLINE_EXCEEDED; the server is not told.
        Raises ValueError or TypeError for what cannot be sent.
        """
    def start(self) -> None:
        """Make all connections and begin, once. Raises OSError if one cannot be made.

        A connection that is lost later is made again; what was in flight on it has failed.
        """
    def take(self) -> Sample:
        """Return what was measured since the call before. Raises RuntimeError unless it runs."""
    def stop(self, timeout_s: float = 1.0) -> None:
        """Send nothing more, wait so long for the answers to what was sent, and disconnect."""

@final
class Sample:
    """What a load measured between two moments. Durations are kept in histograms, to 1/1000.

    A kind of duration is "latency"; "lag", by how much requests were sent too late in open loop;
    or "timing 0" and so on, in the order of the load's timings.
    """

    @property
    def seconds(self) -> float:
        """How long it was."""
    @property
    def answered(self) -> int:
        """Requests that were answered without an error."""
    @property
    def failures(self) -> list[tuple[int, int, str]]:
        """Failed requests by code, ascending: code, how many, what the first was told."""
    @property
    def series(self) -> list[int]:
        """Answers in each second, counted from the start, that lies in this sample as a whole."""
    @property
    def usage(self) -> list[tuple[float, float, float]]:
        """For each thread the seconds that it had a CPU, that it was busy, and that it waited.

        Busy: waiting for neither the network nor the schedule. The last is the time in which it
        waited for a CPU, 0.0 where the system does not tell.
        """

    @property
    def stream_limit(self) -> int | None:
        """The server's limit on calls of a connection, if requests waited for it in the client."""
    @property
    def reconnects(self) -> int:
        """How often a lost connection was made again."""
    @property
    def kinds(self) -> list[str]:
        """The kinds of durations."""
    def count(self, kind: str) -> int:
        """Return how many durations there are."""
    def quantile_s(self, kind: str, quantile: float) -> float:
        """Return the seconds that this share, from 0 to 1, does not exceed; 0.0 of none."""
    def mean_s(self, kind: str) -> float:
        """Return their mean; 0.0 of none."""
    def max_s(self, kind: str) -> float:
        """Return the longest; 0.0 of none."""
    def recorded(self, kind: str) -> list[tuple[float, int]]:
        """Return durations that occurred, ascending, and how often each did."""
    def then(self, later: Sample) -> Sample:
        """Return this sample and one that followed it as one."""
