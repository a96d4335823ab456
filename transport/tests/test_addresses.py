"""Where a server listens, and what it says when it cannot."""

import socket
import stat
from pathlib import Path

import grpc
import pytest
from penstock_transport import Server

from harness import (
    HOLD,
    METHODS,
    PATIENCE_S,
    UNARY,
    App,
    serving,
    unary,
)


def test_several_addresses(tmp_path: Path) -> None:
    """A server listens on every address it is given, Unix sockets among them."""
    path = tmp_path / "socket"
    addresses = ["127.0.0.1:0", "localhost:0", f"unix:{path}"]
    with serving(addresses=addresses) as app:
        assert app.addresses[-1] == f"unix:{path}"
        assert not any(address.endswith(":0") for address in app.addresses)
        for address in app.addresses:
            with grpc.insecure_channel(address) as channel:
                assert unary(channel, UNARY)(b"x", timeout=PATIENCE_S) == b"x"
    assert not path.exists()


def test_peer(app: App, channel: grpc.Channel) -> None:
    """A call knows the address of its peer."""
    call = unary(channel, HOLD).future(b"")
    served = app.expect("request").call
    host, _, port = served.peer.rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    served.finish(0, reply=b"")
    call.result(PATIENCE_S)


@pytest.mark.parametrize("family", ["ours", "foreign"])
def test_port_in_use(family: str) -> None:
    """A port that somebody has is an error that names it, and nothing is left listening."""
    with serving() as app, socket.create_server(("127.0.0.1", 0)) as foreign:
        port = foreign.getsockname()[1]
        taken = app.address if family == "ours" else f"127.0.0.1:{port}"
        server = Server(["127.0.0.1:0", taken], METHODS)
        with pytest.raises(OSError, match=f"cannot listen on {taken}: .*in use"):
            server.start()
        server.close()


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:http2", "192.0.2.1:0", ":"])
def test_address_that_cannot_be(address: str) -> None:
    """An address that cannot be listened on is named."""
    server = Server([address], METHODS)
    with pytest.raises(OSError, match=f"cannot listen on {address}: "):
        server.start()
    server.close()


def test_unix_socket_left_behind(tmp_path: Path) -> None:
    """A socket without a server is taken over; one with a server, and a file, are not."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with serving(addresses=[f"unix:{path}"]) as app:
        assert stat.S_ISSOCK(path.stat().st_mode)
        rival = Server([app.address], METHODS)
        with pytest.raises(OSError, match="in use"):
            rival.start()
        rival.close()
        with grpc.insecure_channel(app.address) as channel:
            assert unary(channel, UNARY)(b"x", timeout=PATIENCE_S) == b"x"
    path.write_text("precious")
    server = Server([f"unix:{path}"], METHODS)
    with pytest.raises(OSError, match="in use"):
        server.start()
    server.close()
    assert path.read_text() == "precious"


def test_path_of_a_socket_too_long(tmp_path: Path) -> None:
    """A path that the system cannot take is an error that names it."""
    server = Server([f"unix:{tmp_path}/{'x' * 200}"], METHODS)
    with pytest.raises(OSError, match="cannot listen on unix:"):
        server.start()
    server.close()


def test_start_is_once() -> None:
    """A server is started once, and not after it was closed."""
    with serving() as app, pytest.raises(OSError, match="once"):
        app.server.start()
    server = Server(["127.0.0.1:0"], METHODS)
    server.close()
    with pytest.raises(OSError, match="once"):
        server.start()
