"""A client of raw HTTP/2, for what no gRPC client would send."""

import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions

_TIMEOUT_S = 10.0
_RECEIVE = 65536
_FRAME_HEADER = 9  # RFC 9113 section 4.1
_GOAWAY = 7

Headers = Sequence[tuple[bytes, bytes]]


@dataclass
class Answer:
    """What came back on one stream. reset: error code of RST_STREAM."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    reset: int | None = None

    @property
    def grpc_status(self) -> int | None:
        """Return the status of gRPC; None if there is none."""
        status = self.headers.get(b"grpc-status")
        return None if status is None else int(status)


class RawClient:
    """One connection. Headers go out as they are given, valid or not."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), _TIMEOUT_S)
        config = h2.config.H2Configuration(
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self._h2 = h2.connection.H2Connection(config)
        self._early: list[Any] = []  # received while something was sent
        self._h2.initiate_connection()
        self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def open(self, path: bytes, *extra: tuple[bytes, bytes], **other: bytes) -> int:
        """Send the headers of a call and return the stream's id.

        extra: further headers. other: instead of the usual ones, or besides them.
        """
        stream: int = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, [*_headers(path, other), *extra])
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, ends: bool = True) -> None:
        """Send DATA, as it is."""
        self._h2.send_data(stream, data, end_stream=ends)
        self._flush()

    def send_large(self, stream: int, data: bytes) -> None:
        """Send DATA as the windows allow, and end the stream. Stops where the server refuses it."""
        if not data:
            self.send(stream, data)
        at = 0
        while at < len(data):
            room = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
            if room == 0:
                events = self._h2.receive_data(self._receive())
                over = (h2.events.StreamEnded, h2.events.StreamReset)
                self._early += events
                if any(isinstance(event, over) for event in events):
                    return
                continue
            self._h2.send_data(stream, data[at : at + room], end_stream=at + room >= len(data))
            at += room
            self._flush()

    def write(self, data: bytes) -> bool:
        """Send bytes as they are. False: the server has hung up."""
        try:
            self._socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def read_to_end(self, seconds: float = _TIMEOUT_S) -> int | None:
        """Read until the server hangs up; return the code of its last GOAWAY.

        Raises TimeoutError if it does not hang up.
        """
        self._socket.settimeout(seconds)
        received = b""
        while chunk := self._receive():
            received += chunk
        return _last_goaway(received)

    def reset(self, stream: int) -> None:
        """Send RST_STREAM with CANCEL."""
        self._h2.reset_stream(stream, 8)
        self._flush()

    def open_many(self, path: bytes, count: int, *, reset: bool = False) -> None:
        """Open many streams at once, and reset each."""
        for _ in range(count):
            stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream, _headers(path, {}))
            if reset:
                self._h2.reset_stream(stream, 8)
        self._flush()

    def answer(self, stream: int) -> Answer:
        """Wait for the end of a stream, or of the connection."""
        return self.answers(stream)[stream]

    def answers(self, *streams: int) -> dict[int, Answer]:
        """Wait for the end of all streams, or of the connection."""
        answers = {stream: Answer() for stream in streams}
        left = set(streams)
        while left:
            events = self._next_events()
            for event in events:
                if isinstance(event, h2.events.DataReceived):
                    size = event.flow_controlled_length
                    self._h2.acknowledge_received_data(size, event.stream_id)
                stream = getattr(event, "stream_id", None)
                if stream in left and _take(answers[stream], event):
                    left.discard(stream)
            ends = [one for one in events if isinstance(one, h2.events.ConnectionTerminated)]
            if ends or not events:
                for stream in left:
                    answers[stream].reset = int(ends[0].error_code or 0) if ends else -1
                break
            self._flush()
        return answers

    def _next_events(self) -> list[Any]:
        """Return what comes next; nothing when the server has hung up."""
        events, self._early = self._early, []
        while not events:
            chunk = self._receive()
            if not chunk:
                break
            events = self._h2.receive_data(chunk)
            self._flush()
        return events

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE)
        except ConnectionError:
            return b""

    def _flush(self) -> None:
        with suppress(ConnectionError):  # a server that has hung up is seen when it is read
            self._socket.sendall(self._h2.data_to_send())


def frame(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    """Return a payload behind HTTP/2's frame header, whatever they are worth."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def framed(message: bytes, flag: int = 0) -> bytes:
    """Return a message behind gRPC's prefix."""
    return struct.pack(">BI", flag, len(message)) + message


def _headers(path: bytes, other: Mapping[str, bytes]) -> Headers:
    usual = {"te": b"trailers", "content-type": b"application/grpc"}
    usual.update({name.replace("_", "-"): value for name, value in other.items()})
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        *((name.encode(), value) for name, value in usual.items()),
    ]


def _last_goaway(received: bytes) -> int | None:
    code = None
    while len(received) >= _FRAME_HEADER:
        end = _FRAME_HEADER + int.from_bytes(received[:3], "big")
        if received[3] == _GOAWAY and len(received) >= _FRAME_HEADER + 8:
            code = int.from_bytes(received[13:17], "big")
        received = received[end:]
    return code


def _take(answer: Answer, event: Any) -> bool:
    """Note what an event says; tell whether the stream is over."""
    if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
        answer.headers.update(dict(event.headers))
    elif isinstance(event, h2.events.DataReceived):
        answer.body += event.data
    elif isinstance(event, h2.events.StreamReset):
        answer.reset = int(event.error_code)
        return True
    return isinstance(event, h2.events.StreamEnded)
