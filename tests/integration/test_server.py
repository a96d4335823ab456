"""The server as a part of another program: started and stopped inside this process."""

import threading
from pathlib import Path

import grpc
import pytest

from service.app.server import Server
from service.config import Settings
from service.errors import LoadError, RepositoryError, SettingsError
from tests.support import models
from tests.support.requests import answer, simple_request
from tests.support.servers import http_get, serve_inside
from tests.support.stub import WAIT_S, Stub
from tests.support.waiting import eventually

_OURS = ("ingress", "http", "watcher", "simple-", "grpc-call", "grpc-read")


def settings(repository: Path, **more: int) -> Settings:
    """Return settings on free ports."""
    return Settings(
        str(repository),
        **{"port": 0, "http_port": 0, "drain_delay": 0, **more},  # type: ignore[arg-type]
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Write a repository with one model."""
    models.publish(tmp_path, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    return tmp_path


def our_threads() -> set[str]:
    """Return the names of the threads that servers have started in this process."""
    return {t.name for t in threading.enumerate() if t.name.startswith(_OURS)}


def test_two_servers_live_side_by_side(repository: Path) -> None:
    """Two servers in one process have ports of their own, and one outlives the other."""
    with serve_inside(settings(repository)) as first:
        with serve_inside(settings(repository)) as second:
            assert first.addresses != second.addresses
            assert sum_of(second.addresses[0]) == 5
        assert sum_of(first.addresses[0]) == 5
        assert http_get(first.http_address, "/v2/health/ready")[0] == 200


def test_stopped_server_leaves_no_thread(repository: Path) -> None:
    """Every thread has an owner that joins it: after the stop none is left."""
    before = our_threads()
    with serve_inside(settings(repository, watch=1)) as server:
        assert sum_of(server.addresses[0]) == 5
        assert our_threads() > before
    eventually(lambda: our_threads() <= before, "the threads have ended")


def test_server_that_cannot_start_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    """A start that fails raises our error and leaves no thread and no port behind."""
    before = our_threads()
    with serve_inside(settings(repository)) as running:
        port = int(running.addresses[0].rpartition(":")[2])
        for wrong, kind in (
            (settings(tmp_path / "none"), RepositoryError),
            (settings(repository, port=port), SettingsError),
            (settings(broken(tmp_path / "broken")), LoadError),
        ):
            server = Server(wrong)
            with pytest.raises(kind):
                server.start()
            server.abort()
    eventually(lambda: our_threads() <= before, "the threads have ended")


def broken(root: Path) -> Path:
    """Write a repository whose only model cannot be loaded."""
    models.publish(root, "bad", b"no model")
    return root


def sum_of(address: str) -> int:
    """Ask a server for 2 + 3."""
    with grpc.insecure_channel(address) as channel:
        response = Stub(channel).infer(simple_request(2, 3), timeout=WAIT_S)
        return int(answer(response, "OUTPUT0")[0, 0])
