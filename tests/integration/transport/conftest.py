"""Every transport goes through the same tests, written against service.transport.seam."""

import shutil
from collections.abc import Iterator, Sequence
from typing import Protocol

import grpc
import pytest

from service.transport.native import is_installed, native_transport
from service.transport.seam import Limits, Methods, Tls, Transport
from service.transport.threaded import ThreadedTransport
from tests.support.engine import METHODS, Engine


class Factory(Protocol):
    """Makes a transport; see ThreadedTransport."""

    def __call__(
        self,
        addresses: Sequence[str],
        methods: Methods,
        limits: Limits | None = None,
        tls: Tls | None = None,
        *,
        compress_replies: bool = False,
    ) -> Transport:
        """Return a transport that does not listen yet."""


class Run(Protocol):
    """Runs a transport with an engine until the test is over."""

    def __call__(
        self,
        addresses: Sequence[str] = ("127.0.0.1:0",),
        *,
        limits: Limits | None = None,
        tls: Tls | None = None,
        compress_replies: bool = False,
    ) -> Engine:
        """Return the engine, which takes events."""


_FACTORIES: dict[str, Factory] = {"native": native_transport, "threaded": ThreadedTransport}


@pytest.fixture(params=sorted(_FACTORIES))
def transport_factory(request: pytest.FixtureRequest) -> Factory:
    """Give the transport under test."""
    if request.param == "native" and not is_installed():
        if shutil.which("cargo"):
            pytest.fail("penstock-transport is not installed though cargo is here: make native")
        pytest.skip("penstock-transport is not installed: make native (needs cargo)")
    return _FACTORIES[request.param]


@pytest.fixture
def run(transport_factory: Factory) -> Iterator[Run]:
    """Run transports; all are closed at the end."""
    engines: list[Engine] = []

    def start(
        addresses: Sequence[str] = ("127.0.0.1:0",),
        *,
        limits: Limits | None = None,
        tls: Tls | None = None,
        compress_replies: bool = False,
    ) -> Engine:
        transport = transport_factory(
            addresses, METHODS, limits, tls, compress_replies=compress_replies
        )
        engine = Engine(transport, list(transport.start()))
        engine.start()
        engines.append(engine)
        return engine

    yield start
    for engine in engines:
        engine.stop()


@pytest.fixture
def engine(run: Run) -> Engine:
    """Run a transport with its usual limits."""
    return run()


@pytest.fixture
def channel(engine: Engine) -> Iterator[grpc.Channel]:
    """Connect to it."""
    with grpc.insecure_channel(engine.address) as connected:
        yield connected
