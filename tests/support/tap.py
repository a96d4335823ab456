"""A tap on the wire: relays TCP to a server unchanged and notes the gRPC calls that pass.

Stands between a client and a server and reads their HTTP/2 beside them: what was called, with which
messages, and how it ended, by neither's own account. What it cannot read it relays all the same.
"""

import gzip
import socket
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from hpack import Decoder
from hpack.exceptions import HPACKError

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9
_PADDED, _PRIORITY, _END_HEADERS = 0x8, 0x20, 0x4
_CHUNK: Final = 1 << 16
_KEPT_BYTES: Final = 1 << 20  # of the requests of a call; what comes after is not noted
_STOP_S: Final = 10.0


@dataclass(slots=True)
class Call:
    """One call. status: its grpc-status, None while it has none. answers: number of messages."""

    path: str
    headers: Mapping[str, str]
    requests: list[bytes] = field(default_factory=list)
    answers: int = 0
    status: int | None = None


class Tap:
    """A context manager that relays from its own address to the server's until it is left.

    upstream: HOST:PORT of the server.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="tap")

    @property
    def address(self) -> str:
        """Return the HOST:PORT to connect to."""
        host, port = self._listener.getsockname()
        return f"{host}:{port}"

    @property
    def calls(self) -> list[Call]:
        """Return the calls begun since `take`, and leave them."""
        with self._lock:
            return list(self._calls)

    def take(self) -> list[Call]:
        """Return the calls begun since the last time."""
        with self._lock:
            calls, self._calls = self._calls, []
        return calls

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(_STOP_S)
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(_STOP_S)
        for end in self._sockets:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._server())
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            calls: dict[int, Call] = {}
            for source, sink, reader in (
                (client, server, _Requests(calls, self._note)),
                (server, client, _Answers(calls)),
            ):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=_relay, args=(source, sink, reader), name="tap")
                self._threads.append(thread)
                thread.start()

    def _server(self) -> tuple[str, int]:
        host, _, port = self.upstream.rpartition(":")
        return host, int(port)

    def _note(self, call: Call) -> None:
        with self._lock:
            self._calls.append(call)


def _relay(source: socket.socket, sink: socket.socket, reader: "_Reader") -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            reader.feed(data)  # before it goes on: who has an answer finds its call noted
            sink.sendall(data)
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            end.shutdown(how)


class _Reader:
    """Reads one direction of a connection; gives up for good at what it cannot read."""

    def __init__(self, calls: dict[int, Call]) -> None:
        self.calls = calls
        self._buffer = bytearray()
        self._block = bytearray()
        self._decoder = Decoder(max_header_list_size=1 << 20)
        self._decoder.max_allowed_table_size = 1 << 20
        self._is_lost = False
        self._messages: dict[int, bytearray] = {}

    def feed(self, data: bytes) -> None:
        """Take what came next."""
        if self._is_lost:
            return
        self._buffer += data
        try:
            for kind, flags, stream, payload in self._frames():
                self._take(kind, flags, stream, payload)
        except (HPACKError, IndexError, UnicodeDecodeError, ValueError):
            self._is_lost = True

    def headers(self, stream: int, headers: Mapping[str, str]) -> None:
        """Take the headers or trailers of a call."""
        raise NotImplementedError

    def message(self, stream: int, message: bytes) -> None:
        """Take a message of a call, as it was before it was compressed."""
        raise NotImplementedError

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        at = 0
        if self._buffer.startswith(_PREFACE[: len(self._buffer)]):
            if len(self._buffer) < len(_PREFACE):
                return
            at = len(_PREFACE)
        while len(self._buffer) >= at + 9:
            end = at + 9 + int.from_bytes(self._buffer[at : at + 3])
            if len(self._buffer) < end:
                break
            stream = int.from_bytes(self._buffer[at + 5 : at + 9]) & 0x7FFFFFFF
            payload = bytes(self._buffer[at + 9 : end])
            yield self._buffer[at + 3], self._buffer[at + 4], stream, payload
            at = end
        del self._buffer[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (_DATA, _HEADERS) and flags & _PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if kind == _DATA:
            self._take_data(stream, payload)
        elif kind in (_HEADERS, _CONTINUATION):
            skip = 5 if kind == _HEADERS and flags & _PRIORITY else 0
            self._block += payload[skip:]
            if flags & _END_HEADERS:
                block = bytes(self._block)
                self._block.clear()
                self.headers(stream, _text(self._decoder.decode(block, raw=True)))

    def _take_data(self, stream: int, payload: bytes) -> None:
        waiting = self._messages.setdefault(stream, bytearray())
        waiting += payload
        at = 0
        while len(waiting) >= at + 5:
            end = at + 5 + int.from_bytes(waiting[at + 1 : at + 5])
            if len(waiting) < end:
                break
            self.message(stream, bytes(waiting[at:end]))
            at = end
        del waiting[:at]


class _Requests(_Reader):
    def __init__(self, calls: dict[int, Call], note: Callable[[Call], None]) -> None:
        super().__init__(calls)
        self._note = note

    def headers(self, stream: int, headers: Mapping[str, str]) -> None:
        call = self.calls[stream] = Call(headers.get(":path", ""), headers)
        self._note(call)

    def message(self, stream: int, message: bytes) -> None:
        call = self.calls[stream]
        if sum(map(len, call.requests)) < _KEPT_BYTES:
            call.requests.append(_inflated(message, call.headers.get("grpc-encoding", "")))


class _Answers(_Reader):
    def headers(self, stream: int, headers: Mapping[str, str]) -> None:
        if "grpc-status" in headers and stream in self.calls:
            self.calls[stream].status = int(headers["grpc-status"])

    def message(self, stream: int, message: bytes) -> None:  # noqa: ARG002  # counted only
        self.calls[stream].answers += 1


def _inflated(frame: bytes, encoding: str) -> bytes:
    message = frame[5:]
    if not frame[0]:
        return message
    return gzip.decompress(message) if encoding == "gzip" else zlib.decompress(message)


def _text(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
