"""Addresses, Unix sockets, TLS and mutual TLS, on every transport."""

import socket
from pathlib import Path

import grpc
import pytest

from service.errors import SettingsError
from tests.integration.transport.conftest import Factory, Run
from tests.integration.transport.test_calls import ping
from tests.support.engine import METHODS


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


@pytest.mark.parametrize("address", ["[::1]:0", "localhost:0"])
def test_other_families(run: Run, address: str) -> None:
    """An address of IPv6 is served, and a name at each of its addresses."""
    if address.startswith("[") and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    engine = run([address])
    port = engine.address.rpartition(":")[2]
    assert port != "0"
    with grpc.insecure_channel(f"{address.rpartition(':')[0]}:{port}") as channel:
        ping(channel)


def test_path_of_a_unix_socket_too_long(transport_factory: Factory, tmp_path: Path) -> None:
    """A path that the system cannot take is an error that names it."""
    address = f"unix:{tmp_path}/{'x' * 200}"
    transport = transport_factory([address], METHODS)
    with pytest.raises(SettingsError, match=f"cannot listen on {address}"):
        transport.start()
    transport.close()


def test_unix_socket_left_behind(run: Run, tmp_path: Path) -> None:
    """A socket whose server was killed is taken over."""
    path = tmp_path / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    engine = run([f"unix:{path}"])
    with grpc.insecure_channel(engine.address) as channel:
        ping(channel)


def test_file_in_the_place_of_a_unix_socket(transport_factory: Factory, tmp_path: Path) -> None:
    """A file of somebody's is not overwritten."""
    path = tmp_path / "precious"
    path.write_text("precious")
    transport = transport_factory([f"unix:{path}"], METHODS)
    with pytest.raises(SettingsError, match=f"cannot listen on unix:{path}"):
        transport.start()
    transport.close()
    assert path.read_text() == "precious"


def test_unix_socket_of_a_living_server(
    run: Run, transport_factory: Factory, tmp_path: Path
) -> None:
    """A socket that a server listens on stays its own."""
    engine = run([f"unix:{tmp_path}/grpc.sock"])
    rival = transport_factory(engine.addresses, METHODS)
    with pytest.raises(SettingsError, match=f"cannot listen on {engine.address}"):
        rival.start()
    rival.close()
    with grpc.insecure_channel(engine.address) as channel:
        ping(channel)


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
