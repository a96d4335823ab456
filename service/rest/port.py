"""The HTTP port: a socket, an event loop on a thread of its own, TLS."""

import asyncio
import logging
import socket
import ssl
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from service.errors import SettingsError
from service.rest.app import RestApp
from service.rest.guard import GuardLimits, protocol_factory
from service.transport.seam import Tls

_BACKLOG: Final = 128
_WORKERS: Final = 2  # for large bodies and slow pages
_JOIN_S: Final = 5.0
_FLUSH_S: Final = 0.01  # between two looks, once, while the port drains
_LOOK_S: Final = 1.0  # between two looks at the TLS files

_LOG = logging.getLogger(__name__)


class HttpPort:
    """Serves an application. Every method may be called from any thread."""

    def __init__(
        self,
        host: str,
        port: int,
        app: RestApp,
        limits: GuardLimits,
        *,
        idle_s: float | None,
        handshake_s: float,
        tls: Tls | None = None,
    ) -> None:
        """Bind host and port (0: any). idle_s: a connection is kept open so long; None: for ever.

        Raises SettingsError if that cannot be bound, or the TLS files cannot be read.
        """
        self._host = host
        self._app = app
        self._tls = tls
        self._handshake_s = handshake_s
        self._context = _context(tls) if tls is not None else None
        self._factory, self._connections = protocol_factory(
            app, limits, idle_s, self._look_at_files
        )
        self._files = _stamps(tls)
        self._looked = 0.0
        self._socket = _bound(host, port)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def address(self) -> str:
        """Return HOST:PORT with the real port."""
        return f"{self._host}:{self._socket.getsockname()[1]}"

    @property
    def connections(self) -> int:
        """Return how many there are."""
        return len(self._connections)

    def start(self) -> None:
        """Answer requests."""
        self._loop.set_default_executor(ThreadPoolExecutor(_WORKERS, "http-work"))
        self._thread.start()
        self._on_loop(self._listen()).result()

    def drain(self, timeout: float) -> bool:
        """Wait until every request is answered, for so many seconds. True if that came."""
        if not self._thread.is_alive():
            return True
        settled = self._on_loop(self._settle())
        try:
            settled.result(timeout)
        except TimeoutError:
            settled.cancel()
            return False
        return True

    def reload_tls(self) -> None:
        """Read the TLS files again, for new connections. Raises SettingsError."""
        if self._tls is not None:
            self._context = _context(self._tls)
            self._on_loop(self._listen()).result()

    def close(self) -> None:
        """Cut off what is left and free the port."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_JOIN_S)
        self._socket.close()
        if not self._loop.is_running():
            self._loop.close()

    async def _listen(self) -> None:
        """Listen with the TLS files as they are now; who is connected notices nothing."""
        before = self._server
        self._server = await self._loop.create_server(
            self._factory,
            sock=self._socket.dup(),
            ssl=self._context,
            ssl_handshake_timeout=self._handshake_s if self._context else None,
            backlog=_BACKLOG,
        )
        if before is not None:
            before.close()

    async def _settle(self) -> None:
        """Wait until every answer is given, and in the hands of the kernel."""
        await self._app.rest()
        # asyncio tells nobody when a transport has written everything.
        while any(one.transport.get_write_buffer_size() for one in self._connections):  # noqa: ASYNC110
            await asyncio.sleep(_FLUSH_S)

    def _look_at_files(self) -> None:
        """Take TLS files that have changed, at most once a second, as connections come."""
        now = self._loop.time()
        if self._tls is None or now - self._looked < _LOOK_S:
            return
        self._looked = now
        stamps = _stamps(self._tls)
        if stamps == self._files:
            return
        self._files = stamps
        try:
            self._context = _context(self._tls)
        except SettingsError as error:
            _LOG.error("%s; the files from before stay in use", error)
            return
        _LOG.info("TLS files have changed and are in use for new HTTP connections")
        self._renewal = self._loop.create_task(self._listen())

    def _on_loop(self, work: Any) -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        if self._server is not None:
            self._server.close()
        with suppress(TimeoutError):
            self._loop.run_until_complete(self._loop.shutdown_default_executor())


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, asyncio turns off the delay of small packets (Nagle).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host}:{port} for HTTP: {error.strerror or error}; "
            "--http-port takes another port, 0 a free one"
        ) from error
    listener.setblocking(False)
    return listener


def _stamps(tls: Tls | None) -> list[tuple[int, int]]:
    """Return what tells that a file is another: its inode and when it was changed."""
    stamps: list[tuple[int, int]] = []
    for path in (tls.certificate, tls.key, tls.client_ca) if tls is not None else ():
        if path is not None:
            with suppress(OSError):  # then the list is shorter, and so another
                found = Path(path).stat()
                stamps.append((found.st_ino, found.st_mtime_ns))
    return stamps


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.client_ca is not None:
            context.load_verify_locations(tls.client_ca)
            # Probes have no certificate. Pages that are not theirs ask for one.
            context.verify_mode = ssl.CERT_OPTIONAL
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"the TLS files cannot be used for HTTP: {error}") from error
    return context
