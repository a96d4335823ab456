"""A tap on the wire: relays TCP to a server unchanged and notes the calls that pass.

Stands between a client and a server and reads their HTTP beside them: what was called, with which
messages, and how it ended, by neither's own account. What it cannot read it relays all the same.
It can keep the answers to one call from a client, to see how far that goes without them.
"""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Final, Self

from tests.support import tap_http2
from tests.support.tap_call import PATIENCE_S, Call, Hold, Reader

_CHUNK: Final = 1 << 16
_STOP_S: Final = 10.0
# Given what to note each call with, returns the readers of requests and answers of a connection.
Readers = Callable[[Callable[[Call], None]], tuple[Reader, Reader]]


class Tap:
    """A context manager that relays from its own address to the server's until it is left.

    upstream: HOST:PORT of the server. readers: of tap_http2 for gRPC, of tap_http1 for REST.
    """

    def __init__(self, upstream: str, readers: Readers = tap_http2.readers) -> None:
        self.upstream = upstream
        self._readers = readers
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._hold: Hold | None = None
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

    @contextmanager
    def holding(
        self, path: str, requests: int, *, patience_s: float = PATIENCE_S
    ) -> Iterator[Hold]:
        """Hold the next call of a path until the block is left; one at a time."""
        hold = self._hold = Hold(path, requests, patience_s)
        try:
            yield hold
        finally:
            self._hold = None
            hold.end()

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
            thread = threading.Thread(target=self._connect, args=(client, server), name="tap")
            self._threads.append(thread)
            thread.start()

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        """Relay both ways until both sides have ended."""
        requests, answers = self._readers(self._note)
        with client, server:
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            back = threading.Thread(target=_relay, args=(server, client, answers), name="tap")
            back.start()
            _relay(client, server, requests)
            back.join()

    def _server(self) -> tuple[str, int]:
        host, _, port = self.upstream.rpartition(":")
        return host, int(port)

    def _note(self, call: Call) -> None:
        with self._lock:
            self._calls.append(call)
            if self._hold is not None and self._hold.path == call.path:
                call.hold, self._hold = self._hold, None


def _relay(source: socket.socket, sink: socket.socket, reader: Reader) -> None:
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            reader.feed(data)  # before it goes on: who has an answer finds its call noted
            sink.sendall(data)
    reader.end()
    for end, how in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
        with suppress(OSError):
            end.shutdown(how)
