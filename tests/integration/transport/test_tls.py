"""TLS, mutual TLS, and certificates that change while a server runs, on every transport."""

import logging
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from service.errors import SettingsError
from service.transport.seam import Tls
from tests.integration.transport.conftest import Factory, Run
from tests.integration.transport.test_calls import ping
from tests.support.certificates import Authority, Pair
from tests.support.engine import ECHO, METHODS, Engine
from tests.support.stub import refusal, unary
from tests.support.waiting import WAIT_S, eventually


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make a certificate authority."""
    return Authority(tmp_path_factory.mktemp("ca"), "authority")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Make another one."""
    return Authority(tmp_path_factory.mktemp("other"), "other")


@pytest.fixture
def pair(authority: Authority, tmp_path: Path) -> Pair:
    """Write a certificate and its key where a test may overwrite them."""
    pair = Pair(tmp_path / "certificate.pem", tmp_path / "key.pem")
    put(pair, authority.sign("server"))
    return pair


def put(pair: Pair, source: Pair) -> None:
    """Overwrite a certificate and its key."""
    pair.key.write_bytes(source.key.read_bytes())
    pair.certificate.write_bytes(source.certificate.read_bytes())


@contextmanager
def trusting(
    engine: Engine, authority: Authority, client: Pair | None = None
) -> Iterator[grpc.Channel]:
    """Connect anew, trusting an authority."""
    key, certificate = (
        (client.key.read_bytes(), client.certificate.read_bytes()) if client else (None, None)
    )
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, certificate)
    own = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(engine.address, credentials, own) as channel:
        yield channel


def is_served(engine: Engine, authority: Authority) -> bool:
    """Tell whether a client that trusts the authority, and connects now, is served."""
    with trusting(engine, authority) as channel:
        return bool(unary(channel, ECHO).future(b"", timeout=WAIT_S).exception() is None)


def test_tls(run: Run, pair: Pair, authority: Authority, other: Authority) -> None:
    """With a certificate, clients that trust its authority are served, others are not."""
    engine = run(tls=Tls(str(pair.certificate), str(pair.key)))
    assert is_served(engine, authority)
    assert not is_served(engine, other)
    with grpc.insecure_channel(engine.address) as channel:
        assert refusal(unary(channel, ECHO), b"")[0] is grpc.StatusCode.UNAVAILABLE


def test_mutual_tls(run: Run, pair: Pair, authority: Authority, other: Authority) -> None:
    """With a client CA, only clients with a certificate of that CA are served."""
    engine = run(tls=Tls(str(pair.certificate), str(pair.key), str(authority.certificate)))
    with trusting(engine, authority, authority.sign("client")) as channel:
        ping(channel)
    for client in (None, other.sign("stranger")):
        with trusting(engine, authority, client) as channel:
            assert refusal(unary(channel, ECHO), b"")[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", ["TLSv1_1", "TLSv1_2", "TLSv1_3"])
def test_least_version(run: Run, pair: Pair, version: str) -> None:
    """TLS 1.2 is the least that is spoken, and HTTP/2 is agreed upon."""
    engine = run(tls=Tls(str(pair.certificate), str(pair.key)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("ALL:@SECLEVEL=0")  # else the old version is not even tried
    context.set_alpn_protocols(["h2"])
    host, _, port = engine.address.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as plain:
        if version == "TLSv1_1":
            with pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(plain)
        else:
            with context.wrap_socket(plain) as secure:
                assert secure.selected_alpn_protocol() == "h2"


def test_reload(run: Run, pair: Pair, authority: Authority, other: Authority) -> None:
    """Reloaded files are used for new connections on every address; open ones go on."""
    engine = run(["127.0.0.1:0", "127.0.0.1:0"], tls=Tls(str(pair.certificate), str(pair.key)))
    with trusting(engine, authority) as before:
        ping(before)
        put(pair, other.sign("server"))
        engine.transport.reload_tls()
        for address in engine.addresses:
            assert is_served(Engine(engine.transport, [address]), other)
            assert not is_served(Engine(engine.transport, [address]), authority)
        ping(before)
    assert engine.transport.counters()["tls_reloads_total"] == 1


@pytest.mark.parametrize("damage", ["mismatch", "half", "gone"])
def test_reload_of_broken_files(run: Run, pair: Pair, authority: Authority, damage: str) -> None:
    """Files that cannot be used are an error that names one, and change nothing."""
    engine = run(tls=Tls(str(pair.certificate), str(pair.key)))
    if damage == "mismatch":
        pair.certificate.write_bytes(authority.sign("server").certificate.read_bytes())
    elif damage == "half":
        pair.key.write_bytes(pair.key.read_bytes()[:50])
    else:
        pair.certificate.unlink()
    with pytest.raises(SettingsError, match=r"^TLS: .*(certificate|key)\.pem"):
        engine.transport.reload_tls()
    assert is_served(engine, authority)
    assert engine.transport.counters()["tls_reload_failures_total"] == 1


def test_changed_files_are_noticed(
    run: Run, pair: Pair, authority: Authority, other: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Broken files are logged and change nothing; good ones are taken as clients connect."""
    caplog.set_level(logging.INFO)
    engine = run(tls=Tls(str(pair.certificate), str(pair.key)))
    good = pair.key.read_bytes()
    pair.key.write_bytes(good[:50])
    os.utime(pair.key, (1, 1))

    def warned() -> bool:
        assert is_served(engine, authority)
        return any("stay in use" in record.getMessage() for record in caplog.records)

    eventually(warned, "the broken key is logged")
    put(pair, other.sign("server"))
    eventually(lambda: is_served(engine, other), "the new certificate is in use")
    eventually(
        lambda: any("have changed" in record.getMessage() for record in caplog.records),
        "the new certificate is logged",
    )


def test_reload_without_tls_does_nothing(run: Run) -> None:
    """Where there is no TLS there is nothing to reload."""
    engine = run()
    engine.transport.reload_tls()
    with grpc.insecure_channel(engine.address) as channel:
        ping(channel)


@pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
def test_missing_file_is_named(
    transport_factory: Factory, pair: Pair, authority: Authority, tmp_path: Path, missing: str
) -> None:
    """A file of the TLS settings that is not there is an error that names it."""
    files = {
        "certificate": str(pair.certificate),
        "key": str(pair.key),
        "client_ca": str(authority.certificate),
        missing: str(tmp_path / "none.pem"),
    }
    with pytest.raises(SettingsError, match=r"none\.pem"):
        start(transport_factory, Tls(**files))


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
def test_file_that_is_no_pem_is_named(
    transport_factory: Factory, pair: Pair, tmp_path: Path, broken: str
) -> None:
    """A file that holds something else is an error at start, not at the first client."""
    files = {
        "certificate": str(pair.certificate),
        "key": str(pair.key),
        "client_ca": str(pair.certificate),
        broken: str(tmp_path / "broken.pem"),
    }
    (tmp_path / "broken.pem").write_text("not a key")
    with pytest.raises(SettingsError, match=r"broken\.pem"):
        start(transport_factory, Tls(**files))


def start(transport_factory: Factory, tls: Tls) -> None:
    """Start a transport and close it."""
    transport = transport_factory(["127.0.0.1:0"], METHODS, None, tls)
    try:
        transport.start()
    finally:
        transport.close()
