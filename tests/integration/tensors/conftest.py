"""One server a transport with --allow-client-shm, and models for every way tensors come and go."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.tensors import DATATYPES
from service.transport.native import is_installed
from tests.support import models, servers
from tests.support.servers import RunningServer
from tests.support.stub import Stub

TRANSPORTS = ["native", "threaded"] if is_installed() else ["threaded"]


@pytest.fixture(scope="session")
def tensor_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model for each datatype, and those that take or give tensors in other forms."""
    root = tmp_path_factory.mktemp("tensors")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    for datatype in DATATYPES:
        models.publish(root, f"identity_{datatype.wire.lower()}", models.identity(datatype))
    return root


@pytest.fixture(scope="session", params=TRANSPORTS)
def server(tensor_repository: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """Serve them; the server must outlive every test and stop cleanly."""
    flags = ("--allow-client-shm", "--max-message-mib", "4", "--transport", request.param)
    with servers.serve(tensor_repository, *flags) as running:
        yield running


@pytest.fixture
def stub(server: RunningServer) -> Iterator[Stub]:
    """Connect to the server."""
    with server.stub() as connected:
        yield connected
