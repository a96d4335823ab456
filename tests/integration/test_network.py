"""Where a server listens and what it allows, from the flags down."""

from pathlib import Path

import grpc
import pytest

from service.pb.grpc_service_pb2 import ServerLiveRequest
from tests.integration.conftest import Serve
from tests.support import models
from tests.support.servers import run_serve
from tests.support.stub import WAIT_S, Stub


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Write a repository with one small model."""
    root = tmp_path / "models"
    models.publish(root, "mlp", models.mlp())
    return root


def test_every_address_is_served(serve: Serve, repository: Path, tmp_path: Path) -> None:
    """The host and port, the Unix socket and what --listen names are served side by side."""
    first, second = f"unix:{tmp_path}/a", f"unix:{tmp_path}/b"
    flags = ("--unix-socket", f"{tmp_path}/a", "--listen", f"127.0.0.1:0,{second}")
    with serve(repository, *flags) as server:
        assert len(set(server.addresses)) == 4
        assert server.addresses[1::2] == [first, second]
        for address in server.addresses:
            with grpc.insecure_channel(address) as channel:
                assert Stub(channel).live(ServerLiveRequest(), timeout=WAIT_S).live


def test_address_in_use_ends_the_start(serve: Serve, repository: Path) -> None:
    """An address of --listen that is taken is named, and the exit code is not 0."""
    with serve(repository) as server:
        ended = run_serve(str(repository), "--port", "0", "--listen", server.address)
    assert ended.returncode != 0
    assert f"cannot listen on {server.address}: Address already in use" in ended.stderr


def test_limits_of_the_flags_hold(serve: Serve, repository: Path) -> None:
    """A limit that a flag sets is the transport's: headers above it do not become a call."""
    with serve(repository, "--max-header-kib", "1") as server, server.stub() as stub:
        assert stub.live(ServerLiveRequest(), timeout=WAIT_S).live
        with pytest.raises(grpc.RpcError) as caught:
            stub.live(ServerLiveRequest(), timeout=WAIT_S, metadata=(("key", "v" * 2000),))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert stub.live(ServerLiveRequest(), timeout=WAIT_S).live
