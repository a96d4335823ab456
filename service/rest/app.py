"""The HTTP port as an ASGI application: from a request to its page, from an error to its status.

Knows no server: whatever speaks ASGI 3 can run it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Final

from service.errors import RequestError
from service.rest.coding import chosen_coding, deflate, inflate
from service.rest.exchange import (
    LARGE,
    Body,
    Budget,
    HttpRequest,
    Message,
    Receive,
    Send,
    off_loop,
)
from service.rest.parse import parsed_bytes
from service.rest.reply import HEADER_LENGTH, Reply, error_reply
from service.rest.routes import Page, Routes
from service.rest.status import ALL, STATUSES, ClientGone, HttpError, RpcError
from service.rpc.status import status_of

_STALL_S: Final = 20.0  # between two parts of a body
_LINGER_S: Final = 1.0  # for a caller to read why its body is not taken
_LINGER_BYTES: Final = 16 << 20
_OF_BODIES: Final = (b"content-length", b"transfer-encoding")  # one of them comes with each


@dataclass(frozen=True, slots=True)
class AppLimits:
    """What a caller may send.

    received_bytes: of all bodies together. asks_certificate: pages that are not open are for
    callers with a client certificate. compresses: answers, for callers that take it.
    """

    body_bytes: int
    received_bytes: int
    asks_certificate: bool = False
    compresses: bool = False


class RestApp:
    """Answers every request, whatever it is. Used on the event loop's thread."""

    def __init__(self, routes: Routes, limits: AppLimits, is_draining: Callable[[], bool]) -> None:
        self._routes = routes
        self._limits = limits
        self._is_draining = is_draining
        self._budget = Budget(limits.received_bytes)
        self._date = (0, "")
        self.responses = Counter(dict.fromkeys(ALL, 0))  # by status
        self._in_progress = 0
        self._at_rest = asyncio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        body = Body(receive, self._limits.body_bytes, _STALL_S, self._budget)
        try:
            reply = await self._reply(scope, body, receive)
            if reply is not None:
                await self._send(reply, scope, body, send)
        finally:
            body.release()
            if body.is_read:
                self._end()

    async def rest(self) -> None:
        """Wait until every request that has come whole is answered."""
        while self._in_progress:
            self._at_rest.clear()
            await self._at_rest.wait()

    def _end(self) -> None:
        self._in_progress -= 1
        if not self._in_progress:
            self._at_rest.set()

    async def _reply(self, scope: Message, body: Body, receive: Receive) -> Reply | None:
        try:
            path = scope["raw_path"].decode("latin-1")
            page, names = self._routes.find(scope["method"], path)
            self._admit(page, scope)
            metadata = tuple(
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in scope["headers"]
            )
            headers = dict(metadata)
            if scope["method"] != "GET" and headers.get("sec-fetch-site") == "cross-site":
                raise HttpError(403, "requests that a browser makes for another site are refused")
            length = headers.get("content-length", "")
            content = await body.read(int(length) if length.isdigit() else None)
            self._in_progress += 1
            if content and (coding := headers.get("content-encoding")):
                content = await self._inflated(content, coding, body)
            client = scope.get("client") or ("", 0)
            peer = f"{client[0]}:{client[1]}"
            request = HttpRequest(scope["method"], path, headers, metadata, content, peer, receive)
            if len(content) >= LARGE:
                json = content[: request.natural(HEADER_LENGTH)]
                body.grow(await off_loop(len(json), parsed_bytes, json))
            reply = await page.handler(request, names)
            return await self._coded(reply, headers)
        except ClientGone:
            return None
        except HttpError as error:
            return error_reply(error.status, str(error), error.headers)
        except RpcError as error:
            return error_reply(STATUSES[error.code], str(error))
        except RequestError as error:
            code, text = status_of(error)
            return error_reply(STATUSES[code], text)
        except Exception as error:  # noqa: BLE001  whatever is wrong with one must not stop others
            return error_reply(500, status_of(error)[1])

    def _admit(self, page: Page, scope: Message) -> None:
        is_known = scope.get("state", {}).get("has_certificate", False)
        if self._limits.asks_certificate and not (page.is_open or is_known):
            raise HttpError(403, "a client certificate is needed (--tls-client-ca)")

    async def _inflated(self, content: bytes, coding: str, body: Body) -> bytes:
        inflated = await off_loop(len(content), inflate, content, coding, self._limits.body_bytes)
        body.grow(len(inflated))
        return inflated

    async def _coded(self, reply: Reply, headers: dict[str, str]) -> Reply:
        if not self._limits.compresses:
            return reply
        coding = chosen_coding(headers.get("accept-encoding", ""), len(reply.body))
        if coding is None:
            return reply
        content = await off_loop(len(reply.body), deflate, reply.body, coding)
        more = {"content-encoding": coding, "vary": "accept-encoding"}
        return Reply(reply.status, content, reply.content_type, {**reply.headers, **more})

    async def _send(self, reply: Reply, scope: Message, body: Body, send: Send) -> None:
        self.responses[reply.status] += 1
        headers = {
            "content-type": reply.content_type,
            "content-length": str(len(reply.body)),
            "date": self._now(),
            **reply.headers,
        }
        is_unread = not body.is_read and any(name in _OF_BODIES for name, _ in scope["headers"])
        if is_unread or self._is_draining():
            headers["connection"] = "close"
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        status = reply.status
        await send({"type": "http.response.start", "status": status, "headers": encoded})
        if is_unread:
            await send({"type": "http.response.body", "body": reply.body, "more_body": True})
            await body.discard(_LINGER_BYTES, _LINGER_S)
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": reply.body})

    def _now(self) -> str:
        second = int(time.time())
        if self._date[0] != second:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]
