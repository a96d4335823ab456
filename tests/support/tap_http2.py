"""Reads the gRPC calls of a connection from the two directions of its HTTP/2."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from tests.support.tap_call import Call

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9
_PADDED, _PRIORITY, _END_HEADERS = 0x8, 0x20, 0x4
# Of the requests of a call; what comes after is counted only.
_KEPT_BYTES: Final = 1 << 20
_KEPT_REQUESTS: Final = 500


def readers(note: Callable[[Call], None]) -> tuple["_Requests", "_Answers"]:
    """Return what reads a connection's requests, and its answers. note: is given each call."""
    calls: dict[int, Call] = {}
    return _Requests(calls, note), _Answers(calls)


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
        except (HPACKError, LookupError, OSError, ValueError, zlib.error):
            self._is_lost = True

    def end(self) -> None:
        """Hold nothing any more: one side has gone."""
        for call in list(self.calls.values()):
            if call.hold is not None:
                call.hold.end()

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
        call.sent += 1
        if call.sent <= _KEPT_REQUESTS and sum(map(len, call.requests)) < _KEPT_BYTES:
            call.requests.append(_inflated(message, call.headers.get("grpc-encoding", "")))
        if call.hold is not None:
            call.hold.request()


class _Answers(_Reader):
    def headers(self, stream: int, headers: Mapping[str, str]) -> None:
        if "grpc-status" in headers and stream in self.calls:
            self.calls[stream].status = int(headers["grpc-status"])

    def message(self, stream: int, message: bytes) -> None:  # noqa: ARG002  # counted only
        call = self.calls[stream]
        if call.hold is not None:
            call.hold.wait()
        call.answers += 1


def _inflated(frame: bytes, encoding: str) -> bytes:
    message = frame[5:]
    if not frame[0]:
        return message
    return gzip.decompress(message) if encoding == "gzip" else zlib.decompress(message)


def _text(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
