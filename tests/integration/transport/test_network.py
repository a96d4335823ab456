"""Addresses, Unix sockets, TLS and mutual TLS, on every transport."""

import socket
from pathlib import Path

import grpc
import pytest

from service.errors import SettingsError
from service.transport.seam import Tls
from tests.integration.transport.conftest import Factory, Run
from tests.integration.transport.test_calls import ping
from tests.support.certificates import Authority
from tests.support.engine import ECHO, METHODS
from tests.support.stub import refusal, unary


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make a certificate authority."""
    return Authority(tmp_path_factory.mktemp("ca"), "authority")


def test_port_in_use_is_named(transport_factory: Factory) -> None:
    """A port that something else listens on is an error that names the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        transport = transport_factory([address], METHODS)
        with pytest.raises(SettingsError, match=f"cannot listen on {address}: Address already in"):
            transport.start()
        transport.close()


def test_two_transports_do_not_share_a_port(run: Run, transport_factory: Factory) -> None:
    """A second server on the same port does not take over half of its traffic."""
    address = run().address
    second = transport_factory([address], METHODS)
    with pytest.raises(SettingsError, match=f"cannot listen on {address}"):
        second.start()
    second.close()


@pytest.mark.parametrize("address", ["127.0.0.1:notaport", "no.such.host.:1"])
def test_impossible_address_is_named(transport_factory: Factory, address: str) -> None:
    """An address that cannot be bound is an error that names it."""
    transport = transport_factory([address], METHODS)
    with pytest.raises(SettingsError, match=f"cannot listen on {address}"):
        transport.start()
    transport.close()


def test_port_zero_picks_a_free_one(run: Run) -> None:
    """The address that start returns has the real port."""
    engine = run()
    assert not engine.address.endswith(":0")
    with grpc.insecure_channel(engine.address) as channel:
        ping(channel)


def test_unix_socket(run: Run, tmp_path: Path) -> None:
    """A Unix socket and a port are served side by side."""
    path = tmp_path / "grpc.sock"
    engine = run(["127.0.0.1:0", f"unix:{path}"])
    assert engine.addresses[1] == f"unix:{path}"
    for address in engine.addresses:
        with grpc.insecure_channel(address) as channel:
            ping(channel)


def test_unix_socket_that_cannot_be_made(transport_factory: Factory, tmp_path: Path) -> None:
    """A path where no socket can be made is an error that names it."""
    address = f"unix:{tmp_path}/none/grpc.sock"
    transport = transport_factory([address], METHODS)
    with pytest.raises(SettingsError, match=f"cannot listen on {address}"):
        transport.start()
    transport.close()


def test_tls(run: Run, authority: Authority) -> None:
    """With a certificate, clients that trust its authority are served, others are not."""
    pair = authority.sign("server")
    engine = run(tls=Tls(str(pair.certificate), str(pair.key)))
    trusting = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    with grpc.secure_channel(engine.address, trusting) as channel:
        ping(channel)
    with grpc.secure_channel(engine.address, grpc.ssl_channel_credentials()) as channel:
        assert refusal(unary(channel, ECHO), b"")[0] is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(engine.address) as channel:
        assert refusal(unary(channel, ECHO), b"")[0] is grpc.StatusCode.UNAVAILABLE


def test_mutual_tls(run: Run, authority: Authority, tmp_path: Path) -> None:
    """With a client CA, only clients with a certificate of that CA are served."""
    server, client = authority.sign("server"), authority.sign("client")
    stranger = Authority(tmp_path, "stranger").sign("other")
    tls = Tls(str(server.certificate), str(server.key), str(authority.certificate))
    engine = run(tls=tls)
    root = authority.certificate.read_bytes()
    known = grpc.ssl_channel_credentials(
        root, client.key.read_bytes(), client.certificate.read_bytes()
    )
    with grpc.secure_channel(engine.address, known) as channel:
        ping(channel)
    unknown = grpc.ssl_channel_credentials(
        root, stranger.key.read_bytes(), stranger.certificate.read_bytes()
    )
    for credentials in (grpc.ssl_channel_credentials(root), unknown):
        with grpc.secure_channel(engine.address, credentials) as channel:
            assert refusal(unary(channel, ECHO), b"")[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
def test_missing_file_of_tls_is_named(
    transport_factory: Factory, authority: Authority, tmp_path: Path, missing: str
) -> None:
    """A file of the TLS settings that is not there is an error that names it."""
    pair = authority.sign("server")
    files = {
        "certificate": str(pair.certificate),
        "key": str(pair.key),
        "client_ca": str(authority.certificate),
        missing: str(tmp_path / "none.pem"),
    }
    with pytest.raises(SettingsError, match=r"none\.pem"):
        _start(transport_factory, Tls(**files))


def test_file_that_is_no_certificate_is_refused(
    transport_factory: Factory, authority: Authority, tmp_path: Path
) -> None:
    """A key file that holds none is an error at start, not at the first client."""
    pair = authority.sign("server")
    broken = tmp_path / "broken.pem"
    broken.write_text("not a key")
    with pytest.raises(SettingsError):
        _start(transport_factory, Tls(str(pair.certificate), str(broken)))


def _start(transport_factory: Factory, tls: Tls) -> None:
    transport = transport_factory(["127.0.0.1:0"], METHODS, None, tls)
    try:
        transport.start()
    finally:
        transport.close()
