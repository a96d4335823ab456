"""With TLS files the HTTP port speaks HTTPS; probes need no certificate of their own."""

import http.client
import signal
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.support import models
from tests.support.certificates import Authority, Pair
from tests.support.servers import RunningServer, run_serve, serve
from tests.support.stub import WAIT_S
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make an authority."""
    return Authority(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Write a repository with one model."""
    models.publish(tmp_path / "models", "simple", models.simple())
    return tmp_path / "models"


def get(
    server: RunningServer, authority: Authority, path: str, own: Pair | None = None
) -> tuple[int, bytes, int]:
    """Return status, body and the serial number of the certificate that was seen."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    connection = http.client.HTTPSConnection(server.http_address, timeout=WAIT_S, context=context)
    try:
        connection.request("GET", path)
        certificate: Any = connection.sock.getpeercert()
        response = connection.getresponse()
        return response.status, response.read(), int(certificate["serialNumber"], 16)
    finally:
        connection.close()


def test_client_certificates(repository: Path, authority: Authority) -> None:
    """Pages that carry data ask for a certificate of the authority; probes and metrics do not."""
    pair, own = authority.sign("server"), authority.sign("client")
    flags = ["--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key)]
    flags += ["--tls-client-ca", str(authority.certificate)]
    with serve(repository, *flags) as server:
        for path in ("/v2/health/live", "/v2/health/ready", "/metrics"):
            assert get(server, authority, path)[0] == 200
        for path in ("/v2", "/v2/models/simple"):
            status, body, _ = get(server, authority, path)
            assert status == 403
            assert b"a client certificate is needed (--tls-client-ca)" in body
            assert get(server, authority, path, own)[0] == 200
        with pytest.raises((http.client.HTTPException, OSError)):
            server.get("/v2/health/live")  # without TLS


@pytest.mark.parametrize("told", ["SIGHUP", "noticed"])
def test_files_are_read_again(
    repository: Path, authority: Authority, tmp_path: Path, told: str
) -> None:
    """New connections see a new certificate, after SIGHUP or when it is noticed."""
    pair = Pair(tmp_path / "server.pem", tmp_path / "server.key")

    def renew(name: str) -> None:
        fresh = authority.sign(name)
        pair.key.write_bytes(fresh.key.read_bytes())
        pair.certificate.write_bytes(fresh.certificate.read_bytes())

    renew(f"{told}-first")
    flags = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
    with serve(repository, *flags) as server:
        first = get(server, authority, "/v2")[2]
        renew(f"{told}-second")
        if told == "SIGHUP":
            server.process.send_signal(signal.SIGHUP)
        eventually(lambda: get(server, authority, "/v2")[2] != first, "the new one is shown")


def test_without_rest_there_is_no_tls(repository: Path, authority: Authority) -> None:
    """Metrics and health alone are plain, as before there was REST."""
    pair = authority.sign("plain")
    flags = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key), "--no-rest")
    with serve(repository, *flags) as server:
        assert server.get("/v2/health/ready") == (200, '{"ready":true}')


def test_files_that_cannot_be_used(repository: Path, authority: Authority) -> None:
    """The server does not start without the TLS that it was asked for."""
    first, second = authority.sign("one"), authority.sign("two")
    run = run_serve(
        str(repository), "--port", "0", "--http-port", "0",
        "--tls-certificate", str(first.certificate), "--tls-key", str(second.key),
    )  # fmt: skip
    assert run.returncode != 0
    assert "Traceback" not in run.stderr
