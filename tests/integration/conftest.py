"""One server a transport for all tests that leave it as it is, with every kind of small model."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from service.tensors import DATATYPES
from service.transport.native import is_installed
from tests.support import forms, models, servers
from tests.support.servers import RunningServer
from tests.support.stub import Stub

Serve: TypeAlias = Callable[..., AbstractContextManager[RunningServer]]

TRANSPORTS = ["native", "threaded"] if is_installed() else ["threaded"]


@pytest.fixture(params=TRANSPORTS)
def serve(request: pytest.FixtureRequest) -> Serve:
    """Give servers.serve with each transport."""

    def run(*arguments: str | Path, **named: Any) -> AbstractContextManager[RunningServer]:
        repository, *flags = arguments
        chosen = ("--transport", request.param)
        return servers.serve(Path(repository), *map(str, flags), *chosen, **named)

    return run


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
    models.publish(root, "known", forms.known())
    models.publish(root, "fixed", models.fixed_batch())
    models.publish(root, "two_axes", models.two_axes())
    return root


@pytest.fixture(scope="session", params=TRANSPORTS)
def server(repository: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """Serve the repository; the server must outlive every test and stop cleanly."""
    with servers.serve(repository, "--transport", request.param) as running:
        yield running


@pytest.fixture
def stub(server: RunningServer) -> Iterator[Stub]:
    """Connect to the server."""
    with server.stub() as connected:
        yield connected
