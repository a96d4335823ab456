"""A server a transport with the models of tests/support/python_models, and requests for them."""

from collections.abc import Iterator

import pytest

from tests.integration.conftest import TRANSPORTS
from tests.support import models, python_models, servers
from tests.support.servers import RunningServer
from tests.support.stub import Stub


@pytest.fixture(scope="session", params=TRANSPORTS)
def python_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """Serve them, beside models that are graphs, for tests that leave them as they are."""
    repository = python_models.write(tmp_path_factory.mktemp("python"))
    models.publish(repository, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    models.publish(repository, "slow", models.slow())
    flags = ("--allow-python-backend", "--transport", request.param)
    with servers.serve(repository, *flags) as running:
        yield running


@pytest.fixture
def python_stub(python_server: RunningServer) -> Iterator[Stub]:
    """Connect to it."""
    with python_server.stub() as stub:
        yield stub
