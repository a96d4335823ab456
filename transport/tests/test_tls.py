"""TLS and mutual TLS, and certificates that change while the server runs."""

import datetime as dt
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from penstock_transport import Server

from harness import HOLD, METHODS, PATIENCE_S, UNARY, App, serving, unary


@dataclass
class Identity:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key as PEM."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def issue(self, name: str) -> "Identity":
        """Make a certificate for 127.0.0.1, signed by this one."""
        return _make(name, self)


def authority(name: str = "authority") -> Identity:
    """Make a certificate that may sign others."""
    return _make(name, None)


def _make(name: str, issuer: Identity | None) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
    )
    return Identity(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


@dataclass
class Files:
    """What a server is told of."""

    folder: Path

    def write(self, served: Identity) -> None:
        """Put a certificate and its key in place."""
        (self.folder / "cert.pem").write_bytes(served.pem)
        (self.folder / "key.pem").write_bytes(served.key_pem)

    def trust(self, trusted: Identity) -> None:
        """Put the authority of clients in place."""
        (self.folder / "ca.pem").write_bytes(trusted.pem)

    def settings(self, *, mutual: bool = False) -> dict[str, Any]:
        """Give the server's settings."""
        settings: dict[str, Any] = {
            "tls_certificate": self.folder / "cert.pem",
            "tls_key": self.folder / "key.pem",
        }
        return settings | ({"tls_client_ca": self.folder / "ca.pem"} if mutual else {})


@pytest.fixture(name="root", scope="module")
def _root() -> Identity:
    return authority()


@pytest.fixture(name="files")
def _files(tmp_path: Path, root: Identity) -> Files:
    files = Files(tmp_path)
    files.write(root.issue("server"))
    files.trust(root)
    return files


@contextmanager
def dialled(app: App, trusted: Identity, client: Identity | None = None) -> Iterator[grpc.Channel]:
    """Give a secure channel that trusts an authority."""
    key, certificate = (client.key_pem, client.pem) if client else (None, None)
    credentials = grpc.ssl_channel_credentials(trusted.pem, key, certificate)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(app.address, credentials, options) as channel:
        yield channel


def outcome(channel: grpc.Channel) -> grpc.StatusCode:
    """Make a call and give its status."""
    return unary(channel, UNARY).future(b"x", timeout=PATIENCE_S).code()


def test_tls(files: Files, root: Identity) -> None:
    """A client that trusts the certificate is served."""
    with serving(**files.settings()) as app, dialled(app, root) as channel:
        message = bytes(range(256)) * 4000
        assert unary(channel, UNARY)(message, timeout=PATIENCE_S) == message


def test_tls_is_not_optional(files: Files, root: Identity) -> None:
    """A client without TLS, or with another trust, is not served."""
    with serving(**files.settings()) as app:
        with grpc.insecure_channel(app.address) as channel:
            assert outcome(channel) is grpc.StatusCode.UNAVAILABLE
        with dialled(app, authority("other")) as channel:
            assert outcome(channel) is grpc.StatusCode.UNAVAILABLE
        with dialled(app, root) as channel:
            assert outcome(channel) is grpc.StatusCode.OK
        assert app.server.counters()["refused_handshakes_total"] >= 2


def test_mutual_tls(files: Files, root: Identity) -> None:
    """With a client CA, a client shows a certificate of it, which the application can see."""
    known = root.issue("client")
    stranger = authority("other").issue("client")
    with serving(**files.settings(mutual=True)) as app:
        for client in (None, stranger):
            with dialled(app, root, client) as channel:
                assert outcome(channel) is grpc.StatusCode.UNAVAILABLE
        with dialled(app, root, known) as channel:
            call = unary(channel, HOLD).future(b"", timeout=PATIENCE_S)
            served = app.expect("request").call
            assert served.peer_certificate == known.certificate.public_bytes(
                serialization.Encoding.DER
            )
            served.finish(0, reply=b"")
            assert call.result(PATIENCE_S) == b""


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize(
    ("version", "is_served"),
    [
        (ssl.TLSVersion.TLSv1_1, False),
        (ssl.TLSVersion.TLSv1_2, True),
        (ssl.TLSVersion.TLSv1_3, True),
    ],
)
def test_versions(files: Files, version: ssl.TLSVersion, is_served: bool) -> None:  # noqa: FBT001
    """TLS 1.2 and 1.3 are spoken, with HTTP/2 agreed upon; older versions are not."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = version
    context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    with serving(**files.settings()) as app:
        host, _, port = app.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            if is_served:
                with context.wrap_socket(connection) as secure:
                    assert secure.selected_alpn_protocol() == "h2"
            else:
                with pytest.raises(ssl.SSLError):
                    context.wrap_socket(connection)


def test_silence_instead_of_a_handshake(files: Files) -> None:
    """A peer that says nothing is cut off after the handshake time-out."""
    with serving(**files.settings(), handshake_timeout_s=0.2) as app:
        host, _, port = app.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            assert connection.recv(100) == b""


def test_reload_on_call(files: Files, root: Identity) -> None:
    """New files are used after `reload_tls`; open connections go on."""
    other = authority("other")
    with serving(**files.settings()) as app, dialled(app, root) as before:
        assert outcome(before) is grpc.StatusCode.OK
        files.write(other.issue("server"))
        app.server.reload_tls()
        assert outcome(before) is grpc.StatusCode.OK
        with dialled(app, other) as channel:
            assert outcome(channel) is grpc.StatusCode.OK
        with dialled(app, root) as channel:
            assert outcome(channel) is grpc.StatusCode.UNAVAILABLE


def test_reload_of_broken_files(files: Files, root: Identity) -> None:
    """Files that do not fit together change nothing, and the error names them."""
    with serving(**files.settings()) as app:
        (files.folder / "cert.pem").write_bytes(root.issue("server").pem)  # the key is the old one
        with pytest.raises(ValueError, match=r"cert\.pem"):
            app.server.reload_tls()
        (files.folder / "cert.pem").write_text("half a certif")
        with pytest.raises(ValueError, match=r"cert\.pem"):
            app.server.reload_tls()
        (files.folder / "key.pem").unlink()
        with pytest.raises(ValueError, match=r"cert\.pem|key\.pem"):
            app.server.reload_tls()
        with dialled(app, root) as channel:
            assert outcome(channel) is grpc.StatusCode.OK
        assert app.server.counters()["tls_reload_failures_total"] == 3


def test_changed_files_are_noticed(files: Files) -> None:
    """New files are used for new connections without being told of."""
    other = authority("other")
    with serving(**files.settings()) as app:
        files.write(other.issue("server"))
        for name in ("cert.pem", "key.pem"):
            os.utime(files.folder / name, (1, 1))
        codes = []
        while grpc.StatusCode.OK not in codes:  # the files are looked at once a second
            with dialled(app, other) as channel:
                codes.append(outcome(channel))
        assert app.server.counters()["tls_reloads_total"] == 1


def test_changed_files_are_told_of(files: Files, root: Identity) -> None:
    """Who wants to know hears of files that cannot be used, by name, and of good ones."""
    told: Queue[str | None] = Queue()
    with serving(**files.settings(), tls_reloaded=told.put) as app:
        for content, expected in ((b"half", "key.pem"), (None, None)):
            if content is None:
                files.write(root.issue("server"))
            else:
                (files.folder / "key.pem").write_bytes(content)
            while told.empty():  # the files are looked at once a second
                with dialled(app, root) as channel:
                    outcome(channel)
            heard = told.get(timeout=PATIENCE_S)
            assert heard is expected or (heard is not None and str(expected) in heard)


@pytest.mark.parametrize("name", ["cert.pem", "key.pem", "ca.pem"])
def test_files_that_cannot_be_used(files: Files, name: str) -> None:
    """A file that is missing or no PEM is an error at once, by its name."""
    for content in (None, b"", b"nonsense"):
        path = files.folder / name
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ValueError, match=name):
            Server([], METHODS, **files.settings(mutual=True))


def test_half_of_the_files(files: Files) -> None:
    """A certificate without a key, or a client CA alone, is an error."""
    with pytest.raises(TypeError, match="both"):
        Server([], METHODS, tls_certificate=files.folder / "cert.pem")
    with pytest.raises(TypeError, match="both"):
        Server([], METHODS, tls_client_ca=files.folder / "ca.pem")
