"""uvicorn's protocol with the limits that it leaves open.

How large a head may be and how long it may take, how many connections there may be, and how long
one may leave its answers unread.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, cast

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

_CHUNKING: Final = 8  # bytes on the wire for a byte of a body: chunks of one byte take six
_UPGRADE: Final = frozenset((b"upgrade", b"http2-settings", b"connection"))
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_JOINED_BYTES: Final = 64 << 10  # to copy a larger body costs more than a packet
_SLACK: Final = 4 << 10
_LINGER_S: Final = 1.0
_PHRASES: Final = {
    400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """What connections may do.

    head_bytes: of a request's line and headers. head_s: from the connection's start, or the first
    byte of a request, to the end of the headers. unread_s: a peer that takes nothing of its
    answers for so long is dropped; None: never.
    """

    head_bytes: int
    head_s: float
    unread_s: float | None
    connections: int


class GuardedProtocol(HttpToolsProtocol):
    """One connection. The methods without a word are those of asyncio.Protocol and httptools."""

    def __init__(self, config: Config, state: ServerState, limits: GuardLimits) -> None:
        super().__init__(config, state, {})
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._refusal = (400, "malformed HTTP request")
        self._in_head = True
        self._has_begun = False  # the head that is being read
        self._is_refused = False
        self._wire_bytes = self._body_bytes = self._head_bytes = 0
        self._has_certificate = False

    @property
    def is_idle(self) -> bool:
        """Tell whether it is kept open for a request that may come."""
        return self.timeout_keep_alive_task is not None

    @property
    def _is_queued(self) -> bool:
        """Tell whether the request that came last waits for others of its connection."""
        return bool(self.pipeline) and self.pipeline[0][0] is self.cycle

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._has_certificate = bool(transport.get_extra_info("peercert"))
        if len(self.connections) > self._limits.connections and not self._make_room():
            self._refuse(503, f"too many connections, at most {self._limits.connections}")
            transport.close()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._stop_unread()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._is_refused:
            return
        self._unset_keepalive_if_required()
        self._wire_bytes += len(data)
        self._feed(data)
        overhead = self._wire_bytes - self._body_bytes * _CHUNKING
        if overhead > self._limits.head_bytes + _SLACK + len(data):
            self._refuse(431, f"the headers are larger than {self._limits.head_bytes} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._has_begun = True
        self._head_bytes = self._body_bytes = 0
        self._wire_bytes = 0
        self.scope["state"]["has_certificate"] = self._has_certificate
        self._await_head()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if self._in_head:  # else it trails the body: nobody who passed on the head has seen it
            super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # it is fed again, without its wish
        self._in_head = self._has_begun = False
        self._disarm()
        super().on_headers_complete()
        if self.parser.get_method() != b"HEAD":  # whose answer has no body
            self.cycle.transport = cast("asyncio.Transport", _Joined(self.transport))

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        is_last = self._is_refused and not self.pipeline
        super().on_response_complete()
        if is_last:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread_timer is None:
            self._await_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_unread()

    def _feed(self, data: bytes) -> None:
        while data:  # one connection may make any number of offers
            try:
                self.parser.feed_data(data)
                data = b""
            except httptools.HttpParserUpgrade as wish:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(400, "CONNECT is for proxies, and this is none")
                    return
                head = self._head_without_upgrade()
                self.parser = httptools.HttpRequestParser(self)
                data = head + data[wish.args[0] :]
            except httptools.HttpParserError:
                self._refuse(*self._refusal)
                return

    def _head_without_upgrade(self) -> bytes:
        """Return the head of a request that would be glad of another protocol, without the offer.

        Clients that would rather have HTTP/2 (Java's, curl --http2) make it with their first
        request, and the parser would take the body for something of that protocol.
        """
        ours = [(name, value) for name, value in self.headers if name not in _UPGRADE]
        lines = [b"%s %s HTTP/1.1" % (self.parser.get_method(), self.url)]
        lines += [name + b": " + value for name, value in ours]
        return b"\r\n".join([*lines, b"", b""])

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.head_bytes:
            text = f"the headers are larger than {self._limits.head_bytes} bytes (--max-header-kib)"
            self._refusal = (431, text)
            raise ValueError(text)  # the parser stops

    def _await_head(self) -> None:
        self._disarm()
        self._head_timer = self.loop.call_later(self._limits.head_s, self._head_overdue)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _await_reader(self, unread: int) -> None:
        """Drop the connection if its peer has taken nothing of so many unread bytes in time."""

        def look() -> None:
            left = self.transport.get_write_buffer_size()
            if left < unread:
                self._await_reader(left)
            else:
                self.transport.abort()

        if self._limits.unread_s is not None:
            self._unread_timer = self.loop.call_later(self._limits.unread_s, look)

    def _stop_unread(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _head_overdue(self) -> None:
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_head()  # an earlier request of the connection is being answered
        elif self._has_begun:
            self._refuse(408, f"the headers did not come within {self._limits.head_s:g} s")
        else:
            self.transport.close()

    def _make_room(self) -> bool:
        """Close a connection that is idle."""
        for other in self.connections:
            if cast("GuardedProtocol", other).is_idle and other is not self:
                other.transport.close()
                return True
        return False

    def _may_answer(self) -> bool:
        """Tell whether what is written now is the answer to the request that is being read."""
        if self._in_head:  # the cycle is that of the request before
            return self.cycle is None or self.cycle.response_complete
        return self.cycle is not None and not (self.cycle.response_started or self._is_queued)

    def _refuse(self, status: int, text: str) -> None:
        """Answer with an error if there is a place for it, and end the connection."""
        if self.transport.is_closing() or self._is_refused:
            return
        self._is_refused = True
        self._disarm()
        if self._may_answer():
            if not self._in_head:  # its page shall not answer as well
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            body = orjson.dumps({"error": text})
            head = (
                f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
            if self.transport.can_write_eof():
                self.transport.write_eof()
            # To close what is still being written to would take the answer away from its reader.
            self._head_timer = self.loop.call_later(_LINGER_S, self.transport.close)
        elif self._in_head or self._is_queued:
            # What came whole before it is still being answered: on_response_complete has the end.
            if self._is_queued and not self._in_head:
                self.pipeline.popleft()
        else:
            self.transport.close()


class _Joined:
    """The transport of one answer: its head leaves with its body, in one packet if it is small."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._head and data.startswith(b"HTTP/1.1 ") and data != _CONTINUE:
            self._head = data
        elif len(data) <= _JOINED_BYTES:
            self._transport.write(self._head + data)
            self._head = b""
        else:
            self._flush()
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""


def protocol_factory(
    app: Any, limits: GuardLimits, idle_s: float | None, on_connection: Callable[[], None]
) -> tuple[Callable[[], GuardedProtocol], Collection[GuardedProtocol]]:
    """Return what makes the protocol of each connection, and those that there are.

    idle_s: a connection is kept open so long. on_connection: called for each.
    """
    config = Config(
        app,
        interface="asgi3",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=cast("int", idle_s if idle_s is not None else _FOR_EVER_S),
    )
    config.load()
    state = ServerState()

    def make() -> GuardedProtocol:
        on_connection()
        return GuardedProtocol(config, state, limits)

    return make, cast("Collection[GuardedProtocol]", state.connections)


_FOR_EVER_S: Final = 1 << 30
