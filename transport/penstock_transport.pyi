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
        producer of many answers should wait. On a call that has ended it does nothing.
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

@final
class Server:
    """A gRPC server without methods of its own. Every method may be called from any thread."""

    def __init__(
        self,
        addresses: Sequence[str],
        methods: Mapping[str, Any],
        *,
        kinds: Sequence[Any] | None = None,
        workers: int | None = None,
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
            cancelled; these words by default.
        tls_reloaded: told of TLS files that have changed by themselves: None when they are in
            use, else what is wrong with them. Called on a thread of its own.
        workers: threads for the network; 1 on up to two cores, else 2.
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
            to go away after so long, and dropped after connection_age_grace_s more.
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
    def counters(self) -> dict[str, int]:
        """Return totals, whose names end in "_total", and how much is in progress now, by name."""
