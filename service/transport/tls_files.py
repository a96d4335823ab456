"""TLS files for grpcio, which takes them as bytes: read, checked, and read again when they change.

The native transport does all of it by itself.
"""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias, cast

import grpc

from service.errors import SettingsError
from service.transport.seam import Tls

_LOG = logging.getLogger(__name__)
_LOOK_EVERY_S: Final = 1.0  # and only when somebody connects

_Stamp: TypeAlias = tuple[tuple[int, int] | None, ...]


class TlsFiles:
    """The files as of their last good state, as credentials that follow them."""

    def __init__(self, tls: Tls) -> None:
        """Read the files. Raises SettingsError that names the file which cannot be used."""
        self._tls = tls
        self._lock = threading.Lock()  # handshakes come on threads of grpcio
        self._stamp = self._stamped()
        self._looked = time.monotonic()
        self._current = self._load()
        self.reloads = 0
        self.failures = 0

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials, for one address, that look for changed files as clients connect."""
        given = self._current

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            before, given = given, self._refreshed()
            return None if given is before else given  # None: grpcio goes on with what it has

        return grpc.dynamic_ssl_server_credentials(
            given,
            cast("Callable[[], grpc.ServerCertificateConfiguration]", fetch),
            require_client_authentication=bool(self._tls.client_ca),
        )

    def reload(self) -> None:
        """Read the files now. Raises SettingsError if they cannot be used; nothing changes then."""
        with self._lock:
            self._read()

    def _refreshed(self) -> grpc.ServerCertificateConfiguration:
        """Return what new connections are to use."""
        with self._lock:
            if time.monotonic() - self._looked >= _LOOK_EVERY_S:
                self._looked = time.monotonic()
                if self._stamped() != self._stamp:
                    self._read_unless_broken()
            return self._current

    def _read_unless_broken(self) -> None:
        try:
            self._read()
        except SettingsError as error:
            _LOG.warning("%s; the files from before stay in use", error)
        else:
            _LOG.info("TLS files have changed and are in use")

    def _read(self) -> None:
        self._stamp = self._stamped()
        try:
            self._current = self._load()
        except SettingsError:
            self.failures += 1
            raise
        self.reloads += 1

    def _load(self) -> grpc.ServerCertificateConfiguration:
        tls = self._tls
        try:
            key, certificate = Path(tls.key).read_bytes(), Path(tls.certificate).read_bytes()
            client_ca = Path(tls.client_ca).read_bytes() if tls.client_ca else None
        except OSError as error:
            raise SettingsError(f"TLS: {error.filename}: {error.strerror}") from error
        _check(tls)
        return grpc.ssl_server_certificate_configuration([(key, certificate)], client_ca)

    def _stamped(self) -> _Stamp:
        paths = (self._tls.certificate, self._tls.key, self._tls.client_ca)
        return tuple(_stamp_of(Path(path)) for path in paths if path)


def _check(tls: Tls) -> None:
    """Raise SettingsError unless the files fit together: grpcio would say so to every client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"TLS: cannot use the certificate in {tls.certificate} with the key in {tls.key}: "
            f"{_reason(error)}"
        ) from error
    if tls.client_ca:
        try:
            context.load_verify_locations(tls.client_ca)
        except ssl.SSLError as error:
            raise SettingsError(
                f"TLS: cannot use the client CA in {tls.client_ca}: {_reason(error)}"
            ) from error


def _no_password() -> str:
    raise ValueError("the key has a password")


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason).replace("_", " ").lower() if reason else str(error)


def _stamp_of(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
