"""What must be so after every fault: the server serves, its memory and descriptors are back."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from service.tensors import BYTES, FP32
from service.transport.native import is_installed
from tests.support import models, servers
from tests.support.http2 import RawClient
from tests.support.requests import answer, simple_request
from tests.support.servers import RunningServer
from tests.support.stub import SERVICE, WAIT_S, Stub
from tests.support.waiting import eventually

INFER = f"{SERVICE}/ModelInfer".encode()
LIMIT_MIB = 4  # of a message: small, so that what is over it is cheap to make
_SPARE_MIB = 64  # RELIABILITY INV-5: what a fault may take for a moment, besides 8 x its own size

Start: TypeAlias = Callable[..., "Guarded"]


class Guarded:
    """A server process that is looked after. baseline: before the fault."""

    def __init__(self, server: RunningServer, transport: str) -> None:
        self.server = server
        self.transport = transport

    @property
    def address(self) -> str:
        """Return the address for gRPC."""
        return self.server.address

    def connect(self) -> RawClient:
        """Connect without a gRPC library."""
        return RawClient(self.address)

    def dial(self) -> socket.socket:
        """Connect without HTTP/2."""
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host, int(port)), WAIT_S)

    @contextmanager
    def unharmed(self, sent_mib: float = 0.0) -> Iterator[Stub]:
        """Check that what happens inside harms nobody; give the stub of a bystander.

        sent_mib: size of what is sent inside.
        """
        server = self.server
        with server.stub() as bystander:
            serves(bystander)
            descriptors, memory = server.descriptors(), server.rss_mib()
            server.forget_peak()
            yield bystander
            serves(bystander)
            with server.stub() as newcomer:
                serves(newcomer)
            assert server.process.poll() is None
            assert server.peak_mib() - memory < 8 * sent_mib + _SPARE_MIB
            eventually(
                lambda: server.descriptors() <= descriptors, "all descriptors are given back"
            )


def serves(stub: Stub) -> None:
    """Fail unless a good request is answered right."""
    response = stub.infer(simple_request(20, 3), timeout=WAIT_S)
    assert answer(response, "OUTPUT0").tolist() == [[23] * 16]


@pytest.fixture(scope="session")
def fault_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository with a model that adds, one that echoes and one that takes its time."""
    root = tmp_path_factory.mktemp("faults")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    models.publish(root, "identity_fp32", models.identity(FP32))
    models.publish(root, "identity_bytes", models.identity(BYTES))
    models.publish(root, "slow", models.slow())
    return root


@pytest.fixture(scope="session", params=["native", "threaded"])
def transport(request: pytest.FixtureRequest) -> str:
    """Name the transport under test."""
    if request.param == "native" and not is_installed():
        pytest.skip("penstock-transport is not installed: make native (needs cargo)")
    return str(request.param)


@pytest.fixture(scope="session")
def guarded(fault_repository: Path, transport: str) -> Iterator[Guarded]:
    """Serve with small limits, for all faults that need no others."""
    flags = [f"--max-message-mib={LIMIT_MIB}", "--max-received-mib=32", "--handshake-timeout=1"]
    with servers.serve(fault_repository, *flags, f"--transport={transport}") as server:
        yield Guarded(server, transport)


@pytest.fixture
def start(fault_repository: Path, transport: str) -> Iterator[Start]:
    """Serve with flags of a test's own."""
    with ExitStack() as stack:

        def run(*flags: str, repository: Path = fault_repository, exit_code: int = 0) -> Guarded:
            command = (*flags, "--transport", transport)
            served = servers.serve(repository, *command, exit_code=exit_code)
            server = stack.enter_context(served)
            return Guarded(server, transport)

        yield run
