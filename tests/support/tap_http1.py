"""Reads the calls of REST from the two directions of a connection of HTTP/1.1."""

from collections import deque
from collections.abc import Callable
from typing import Final

from httptools import (
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from tests.support.tap_call import Call

_CONTINUE: Final = 100


def readers(note: Callable[[Call], None]) -> tuple["_Requests", "_Answers"]:
    """Return what reads a connection's requests, and its answers. note: is given each call."""
    calls: deque[Call] = deque()
    return _Requests(calls, note), _Answers(calls)


class _Reader:
    """The callbacks of httptools in the order in which they come; gives up at what is not HTTP."""

    parser: HttpRequestParser | HttpResponseParser

    def __init__(self) -> None:
        self._is_lost = False

    def feed(self, data: bytes) -> None:
        """Take what came next."""
        if self._is_lost:
            return
        try:
            self.parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._is_lost = True

    def end(self) -> None:
        """Take notice that nothing comes any more."""


class _Requests(_Reader):
    def __init__(self, calls: deque[Call], note: Callable[[Call], None]) -> None:
        super().__init__()
        self.parser: HttpRequestParser = HttpRequestParser(self)
        self._calls = calls
        self._note = note

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:  # its answer may come before its body has
        path = f"{self.parser.get_method().decode()} {self._url.decode('latin-1')}"
        self._call = Call(path, self._headers)
        self._calls.append(self._call)
        self._note(self._call)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._call.requests.append(bytes(self._body))
        self._call.sent = 1


class _Answers(_Reader):
    def __init__(self, calls: deque[Call]) -> None:
        super().__init__()
        self.parser: HttpResponseParser = HttpResponseParser(self)
        self._calls = calls

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status != _CONTINUE and self._calls:
            call = self._calls.popleft()
            call.status, call.answers = status, 1
