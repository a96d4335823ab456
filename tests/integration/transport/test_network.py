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
