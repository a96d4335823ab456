"""A client of raw HTTP/2, for what no gRPC client would send."""

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

_TIMEOUT_S = 10.0
_RECEIVE = 65536

Headers = list[tuple[bytes, bytes]]


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
        self._h2.initiate_connection()
        self._flush()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def open(self, path: bytes, **other: bytes) -> int:
        """Send the headers of a call and return the stream's id. other: instead of the usual."""
        usual = {"te": b"trailers", "content-type": b"application/grpc"}
        usual.update({name.replace("_", "-"): value for name, value in other.items()})
        headers: Headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", path),
            (b":authority", b"localhost"),
            *((name.encode(), value) for name, value in usual.items()),
        ]
        stream: int = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, headers)
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, ends: bool = True) -> None:
        """Send DATA, as it is."""
        self._h2.send_data(stream, data, end_stream=ends)
        self._flush()

    def reset(self, stream: int) -> None:
        """Send RST_STREAM with CANCEL."""
        self._h2.reset_stream(stream, 8)
        self._flush()

    def answer(self, stream: int) -> Answer:
        """Wait for the end of a stream, or of the connection."""
        answer = Answer()
        while chunk := self._receive():
            for event in self._h2.receive_data(chunk):
                if isinstance(event, h2.events.DataReceived):
                    size = event.flow_controlled_length
                    self._h2.acknowledge_received_data(size, event.stream_id)
                if getattr(event, "stream_id", None) == stream and _take(answer, event):
                    return answer
                if isinstance(event, h2.events.ConnectionTerminated):
                    answer.reset = int(event.error_code or 0)
                    return answer
            self._flush()
        answer.reset = -1  # closed without a word
        return answer

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE)
        except ConnectionError:
            return b""

    def _flush(self) -> None:
        with suppress(ConnectionError):  # a server that has hung up is seen when it is read
            self._socket.sendall(self._h2.data_to_send())


def framed(message: bytes, flag: int = 0) -> bytes:
    """Return a message behind gRPC's prefix."""
    return struct.pack(">BI", flag, len(message)) + message


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
