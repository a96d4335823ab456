"""A server with four methods, its application thread, and a client that may break the rules."""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Queue
from typing import Any, Self

import grpc
import h2.config
import h2.connection
import h2.events
import hpack
from penstock_transport import Call, Event, Server

PATIENCE_S = 10.0  # for what should happen at once, on a busy machine

UNARY = "/test.Echo/Unary"
STREAM = "/test.Echo/Stream"
HOLD = "/test.Echo/Hold"
HOLD_STREAM = "/test.Echo/HoldStream"
METHODS = {UNARY: "unary", STREAM: "stream", HOLD: "unary", HOLD_STREAM: "stream"}

GOAWAY = 7  # RFC 9113 section 6.8

Headers = Sequence[tuple[bytes, bytes]]


def unary(channel: grpc.Channel, path: str) -> "grpc.UnaryUnaryMultiCallable[bytes, bytes]":
    """Give a unary method that takes and gives bytes."""
    return channel.unary_unary(path, None, None)


def stream(channel: grpc.Channel, path: str) -> "grpc.StreamStreamMultiCallable[bytes, bytes]":
    """Give a streaming method that takes and gives bytes."""
    return channel.stream_stream(path, None, None)


class App:
    """Echoes what comes to UNARY and STREAM; what comes to the others is left to the test."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.addresses = server.start()
        self._events: Queue[Event] = Queue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def address(self) -> str:
        """The first address."""
        return self.addresses[0]

    @property
    def thread_id(self) -> int | None:
        """The thread that takes events."""
        return self._thread.native_id

    def next_event(self) -> Event:
        """Wait for the next event of HOLD or HOLD_STREAM."""
        return self._events.get(timeout=PATIENCE_S)

    def expect(self, kind: str) -> Event:
        """Wait for the next such event, which must be of this kind."""
        event = self.next_event()
        assert event.kind == kind, event
        return event

    def has_no_event(self) -> bool:
        """Tell whether nothing more has come to HOLD or HOLD_STREAM."""
        return self._events.empty()

    def close(self) -> None:
        """Close the server and end the thread."""
        self.server.close()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self.server.closed:
            replies: list[tuple[Call, bytes]] = []
            ended: list[Call] = []
            for event in self.server.take(64):
                if event.call.method in (HOLD, HOLD_STREAM):
                    self._events.put(event)
                elif event.kind in ("request", "message"):
                    replies.append((event.call, event.message))
                elif event.kind == "half-closed":
                    ended.append(event.call)
            self.server.reply_many(replies)
            for call in ended:
                call.finish(0)


@contextmanager
def serving(
    *,
    addresses: Sequence[str] = ("127.0.0.1:0",),
    **settings: Any,
) -> Iterator[App]:
    """Serve METHODS with an App until the end of the block."""
    app = App(Server(list(addresses), METHODS, **settings))
    try:
        yield app
    finally:
        app.close()


@contextmanager
def dialled(app: App, *, options: Sequence[tuple[str, Any]] = ()) -> Iterator[grpc.Channel]:
    """Give a channel of grpcio to the app, on a connection of its own."""
    alone = [("grpc.use_local_subchannel_pool", 1), *options]
    with grpc.insecure_channel(app.address, options=alone) as channel:
        yield channel


def frame(message: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """Put gRPC's header before a message; flag and length may be wrong."""
    return struct.pack(">BI", flag, len(message) if length is None else length) + message


def request_headers(path: bytes, *extra: tuple[bytes, bytes], method: bytes = b"POST") -> Headers:
    """Give the headers that a gRPC client sends."""
    return [
        (b":method", method),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *extra,
    ]


UNARY_HEADERS = request_headers(UNARY.encode())
STREAM_HEADERS = request_headers(STREAM.encode())
HOLD_HEADERS = request_headers(HOLD.encode())
HOLD_STREAM_HEADERS = request_headers(HOLD_STREAM.encode())


@dataclass
class Answer:
    """What came back on one stream."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None
    ended: bool = False

    @property
    def status(self) -> int:
        """GRPC's status code."""
        return int(self.headers[b"grpc-status"])

    @property
    def text(self) -> str:
        """GRPC's message, still percent-encoded."""
        return self.headers.get(b"grpc-message", b"").decode()


class PlainEncoder(hpack.Encoder):
    """Writes header values as they are, without Huffman code."""

    def encode(self, headers: Any, huffman: bool = False) -> bytes:  # noqa: ARG002, FBT001, FBT002
        """Encode headers, whatever huffman says."""
        return bytes(super().encode(headers, huffman=False))


class RawClient:
    """HTTP/2 by hand: sends what it is told to, however wrong. Counts nothing, hides nothing."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.http = h2.connection.H2Connection(config)
        self.http.initiate_connection()
        self.flush()
        self.answers: dict[int, Answer] = {}
        self.goaway: int | None = None
        self.closed = False
        self.other: list[h2.events.Event] = []
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        """Send what h2 has prepared."""
        self.write(self.http.data_to_send())

    def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(data)

    def open(self, headers: Headers, body: bytes | None = None, *, end: bool = True) -> int:
        """Open a stream, with a body that fits the window. Returns its number."""
        number = self.http.get_next_available_stream_id()
        self.answers[number] = Answer()
        self.http.send_headers(number, headers, end_stream=end and body is None)
        if body is not None:
            for start in range(0, max(len(body), 1), 16384):
                part = body[start : start + 16384]
                self.http.send_data(number, part, end_stream=end and start + 16384 >= len(body))
        self.flush()
        return number

    def step(self) -> bool:
        """Read once. False: the server has closed the connection."""
        try:
            data = self.socket.recv(65536)
            for event in self.http.receive_data(self._without_goaway(data)):
                self._note(event)
            self.flush()
        except ConnectionError:  # it did not wait for the last acknowledgement
            data = b""
        self.closed = not data
        return not self.closed

    def answer(self, number: int) -> Answer:
        """Read until the stream has ended or has been reset."""
        answer = self.answers[number]
        while not answer.ended and answer.reset is None:
            assert self.step(), f"closed, goaway={self.goaway}"
        return answer

    def call(self, headers: Headers, body: bytes | None = None) -> Answer:
        """Open a stream and read its answer."""
        return self.answer(self.open(headers, body))

    def read_to_end(self) -> int | None:
        """Read until the server closes the connection. Returns the code of its GOAWAY."""
        while self.step():
            pass
        return self.goaway

    def _without_goaway(self, data: bytes) -> bytes:
        """Give whole frames, less GOAWAY: h2 takes it for the end, but it may be a warning."""
        self._unread += data
        frames = b""
        while len(self._unread) >= 9:
            end = 9 + int.from_bytes(self._unread[:3], "big")
            if len(self._unread) < end:
                break
            one, self._unread = self._unread[:end], self._unread[end:]
            if one[3] == GOAWAY:
                self.goaway = int.from_bytes(one[13:17], "big")
            else:
                frames += one
        return frames

    def _note(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                self.answers[event.stream_id].headers.update(event.headers or ())
            case h2.events.DataReceived():
                self.answers[event.stream_id].body += event.data or b""
                self.http.acknowledge_received_data(
                    event.flow_controlled_length or 0, event.stream_id
                )
            case h2.events.StreamEnded():
                self.answers[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.answers[event.stream_id].reset = int(event.error_code or 0)
            case _:
                self.other.append(event)


def serves(client: RawClient) -> bool:
    """Tell whether a good call is answered on this connection."""
    answer = client.call(UNARY_HEADERS, frame(b"alive"))
    return answer.status == 0 and answer.body == frame(b"alive")
