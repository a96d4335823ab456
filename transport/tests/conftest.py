"""A server that serves all tests that need no settings of their own."""

from collections.abc import Iterator

import grpc
import pytest

from harness import App, RawClient, dialled, serves, serving


@pytest.fixture(name="app", params=[0, 2], ids=["taker", "threads"])
def _app(request: pytest.FixtureRequest) -> Iterator[App]:
    with serving(workers=request.param) as app:
        yield app


@pytest.fixture(name="channel")
def _channel(app: App) -> Iterator[grpc.Channel]:
    with dialled(app) as channel:
        yield channel


@pytest.fixture(name="raw")
def _raw(app: App) -> Iterator[RawClient]:
    with RawClient(app.address) as raw:
        yield raw


@pytest.fixture
def others_are_served(app: App) -> Iterator[None]:
    """Hold that whatever a test does, other connections are served before and after it."""
    with RawClient(app.address) as bystander:
        assert serves(bystander)
        yield
        assert serves(bystander)
    with RawClient(app.address) as newcomer:
        assert serves(newcomer)
