"""One server for all tests that leave it as it is, with every kind of small model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.tensors import DATATYPES
from tests.support import models
from tests.support.servers import RunningServer, serve
from tests.support.stub import Stub


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository with every kind of small model."""
    root = tmp_path_factory.mktemp("models")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    for datatype in DATATYPES:
        models.publish(root, f"identity_{datatype.wire.lower()}", models.identity(datatype))
    models.publish(root, "mlp", models.mlp())
    models.publish(root, "coupled", models.coupled())
    models.publish(root, "gather", models.gather())
    models.publish(root, "slow", models.slow())
    models.publish(root, "scalar", models.scalar())
    models.publish(root, "fixed", models.fixed_batch())
    models.publish(root, "two_axes", models.two_axes())
    return root


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[RunningServer]:
    """Serve the repository; the server must outlive every test and stop cleanly."""
    with serve(repository) as running:
        yield running


@pytest.fixture
def stub(server: RunningServer) -> Iterator[Stub]:
    """Connect to the server."""
    with server.stub() as connected:
        yield connected
