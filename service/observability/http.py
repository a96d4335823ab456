"""The HTTP side port: /metrics, /v2/health/live and /v2/health/ready. Reads only, no bodies."""

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service.errors import SettingsError

_REQUEST_S: Final = 10.0  # a client that is slower than this is dropped
_MAX_CLIENTS: Final = 32


class SidePort:
    """A small HTTP server on threads of its own, apart from the way of requests."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        is_ready: Callable[[], bool],
    ) -> None:
        """Listen on host and port (0: any). Raises SettingsError if that cannot be bound."""
        handler = type(
            "Handler", (_Handler,), {"registry": registry, "is_ready": staticmethod(is_ready)}
        )
        server = _Ipv6Server if ":" in host else _Server
        try:
            self._server = server((host.strip("[]"), port), handler)
        except OSError as error:
            raise SettingsError(
                f"cannot listen on {host}:{port} for HTTP: {error.strerror or error}"
            ) from error
        self._host = host
        self._closing = False
        self._thread = threading.Thread(target=self._loop, name="http", daemon=True)

    @property
    def address(self) -> str:
        """Return HOST:PORT with the real port."""
        return f"{self._host}:{self._server.server_address[1]}"

    def start(self) -> None:
        """Answer requests."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering and free the port."""
        self._closing = True
        if self._thread.is_alive():
            with suppress(OSError), _connect(self._server):
                pass  # wakes up the loop, which waits without a time-out
            self._thread.join(_REQUEST_S)
        self._server.server_close()

    def _loop(self) -> None:
        # serve_forever would wake up twice a second to look whether it should stop.
        while not self._closing:
            self._server.handle_request()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = _MAX_CLIENTS  # 5 of them, the default, and the next ones wait for seconds
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._slots = threading.BoundedSemaphore(_MAX_CLIENTS)
        super().__init__(address, handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that went away is no event."""


def _connect(server: _Server) -> socket.socket:
    host, port = server.socket.getsockname()[:2]
    return socket.create_connection((host, port), _REQUEST_S)


class _Ipv6Server(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    is_ready: Callable[[], bool]
    timeout = _REQUEST_S
    server_version = "penstock"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.split("?", 1)[0]
        if path == "/metrics":
            self._metrics()
        elif path == "/v2/health/live":
            self._answer(HTTPStatus.OK, b"live\n")
        elif path == "/v2/health/ready":
            ready = type(self).is_ready()
            self._answer(
                HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE,
                b"ready\n" if ready else b"not ready\n",
            )
        else:
            self._answer(
                HTTPStatus.NOT_FOUND,
                b"here are /metrics, /v2/health/live and /v2/health/ready; requests go over gRPC\n",
            )

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  its name upstream
        """Say nothing: probes and scrapes come every few seconds."""

    def _metrics(self) -> None:
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._answer(HTTPStatus.OK, encode(self.registry), {"Content-Type": content_type})

    def _answer(
        self, status: HTTPStatus, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
