"""gRPC's interoperability cases: each transport against grpcio, grpc-js, grpc-go and tonic.

The test service runs on the seam in this process. Every client states its cases itself:
support/interop_client.py, node/interop.js, go/main.go (which calls grpc-go's own) and
rust/src/main.rs.
"""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from service.transport.native import is_installed, native_transport
from service.transport.threaded import ThreadedTransport
from tests.foreign.conftest import installed, missing
from tests.support import interop_client
from tests.support.interop import METHODS, InteropServer
from tests.support.servers import ROOT
from tests.support.waiting import eventually

HERE = Path(__file__).resolve().parent
CASES = (
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "custom_metadata",
)
_CASE_S = 60.0

RunCase: TypeAlias = Callable[[str, str], None]


@pytest.fixture(scope="module", params=["native", "threaded"])
def interop_server(request: pytest.FixtureRequest) -> Iterator[InteropServer]:
    """Serve the test service; nothing may be left in progress when all cases are over."""
    if request.param == "threaded":
        server = InteropServer(ThreadedTransport(["127.0.0.1:0"], METHODS))
    elif is_installed():
        server = InteropServer(native_transport(["127.0.0.1:0"], METHODS))
    else:
        missing("penstock-transport is not installed", "run `make native` (needs cargo)")
    yield server
    eventually(lambda: server.counters()["calls"] == 0, "no call is in progress")
    server.close()


@pytest.fixture(scope="module", params=["grpcio", "grpc-js", "grpc-go", "tonic"])
def run_case(request: pytest.FixtureRequest) -> RunCase:
    """Give what runs a case of a client against an address, and fails unless it is as it should."""
    if request.param == "grpcio":
        return interop_client.run_case
    if request.param == "grpc-js":
        command = [*request.getfixturevalue("node"), str(HERE / "node" / "interop.js")]
    elif request.param == "tonic" and shutil.which("cargo") is None:
        missing("cargo, which builds the client with tonic, is not here", "install Rust")
    else:
        command = [str(installed(ROOT / ".tools" / "bin" / f"interop-{request.param}"))]

    def run(case: str, address: str) -> None:
        # A cancelled call of grpc-go may still take the answer of a server as near as this one:
        # of two things that are ready it looks at either. Rarely, and hardly three times.
        for _ in range(3 if (request.param, case) == ("grpc-go", "cancel_after_begin") else 1):
            ended = subprocess.run(
                [*command, case, address],
                capture_output=True, text=True, timeout=_CASE_S, check=False,
            )  # fmt: skip
            if ended.returncode == 0:
                return
        raise AssertionError(ended.stdout + ended.stderr)

    return run


@pytest.mark.foreign
@pytest.mark.parametrize("case", CASES)
def test_interop(case: str, run_case: RunCase, interop_server: InteropServer) -> None:
    """The client finds what the interoperability case of this name demands."""
    run_case(case, interop_server.address)
