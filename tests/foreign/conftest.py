"""A served repository and the clients that nobody here wrote, each where `make tools` puts it.

Where CI is set, a missing client is a failure; elsewhere it is a skip that says what to run.
"""

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from service.tensors import BF16, BYTES, FP16, FP32
from service.transport.native import is_installed
from tests import models as triton_models
from tests.foreign import record
from tests.support import models, servers, tap_http2
from tests.support.tap import Readers, Tap

ROOT = servers.ROOT
_TAPS: list[Tap] = []
_PASSED = pytest.StashKey[bool]()
_SLOW_SIZE = 512  # a matrix product of this size takes 1 ms or so on one CPU


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository in Triton's layout: simple, an identity a datatype, a slow model."""
    root = tmp_path_factory.mktemp("models")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    for datatype in (FP32, FP16, BF16, BYTES):
        models.publish(root, f"identity_{datatype.wire.lower()}", models.identity(datatype))
    models.publish(root, "slow", models.slow(_SLOW_SIZE))
    return root


@pytest.fixture(scope="session", params=["native", "threaded"])
def transport(request: pytest.FixtureRequest) -> str:
    """Name each transport."""
    if request.param == "native" and not is_installed():
        if shutil.which("cargo") is None:
            pytest.skip("the native transport needs cargo, which is not here")
        missing("penstock-transport is not installed", "run `make native`")
    return str(request.param)


@pytest.fixture(scope="session")
def address(repository: Path, transport: str) -> Iterator[str]:
    """Serve the repository at this HOST:PORT; the server must stop with exit code 0."""
    with (
        servers.serve(repository, "--transport", transport) as server,
        tapped(server.address) as tap,
    ):
        yield tap.address


@pytest.fixture(scope="session")
def examples_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the models of Triton's examples into a repository, and one that is never loaded."""
    root = tmp_path_factory.mktemp("examples")
    triton_models.write(root)
    triton_models.MODELS["dummy"]("unloaded").write(root / "unloaded")
    return root


@pytest.fixture(scope="session")
def examples(examples_root: Path, transport: str) -> Iterator[str]:
    """Serve Triton's examples at this HOST:PORT, as a server that is to pass for Triton."""
    flags = ["--transport", transport, "--server-name", "triton", "--allow-client-shm"]
    flags += ["--model-control", "explicit", "--allow-python-backend"]
    flags += [f"--load-model={name}" for name in triton_models.NAMES]
    with servers.serve(examples_root, *flags) as server, tapped(server.address) as tap:
        yield tap.address


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """Find the grpcurl program."""
    return installed(ROOT / ".tools" / "bin" / "grpcurl")


@pytest.fixture(scope="session")
def buf() -> Path:
    """Find the buf program."""
    return installed(ROOT / ".tools" / "node" / "node_modules" / ".bin" / "buf")


@pytest.fixture(scope="session")
def node() -> list[str]:
    """Find a node that knows @grpc/grpc-js, as the start of a command."""
    modules = installed(ROOT / ".tools" / "node" / "node_modules" / "@grpc" / "grpc-js").parent
    program = shutil.which("node")
    if program is None:
        missing("node is not on PATH")
    return ["env", f"NODE_PATH={modules.parent}", program]


@pytest.fixture(scope="session")
def perf_analyzer() -> list[str]:
    """Find perf_analyzer and what it loads, as the start of a command."""
    environment = ROOT / ".tools" / "pytriton"
    program = str(installed(environment / "bin" / "perf_analyzer"))
    (libraries,) = environment.glob("lib/python*/site-packages/nvidia/cuda_runtime/lib")
    command = ["env", f"LD_LIBRARY_PATH={libraries}", program]
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    if "error while loading" in version.stderr:
        missing(version.stderr.strip(), "install it (Debian: libb64-0d)")
    return command


@contextmanager
def tapped(upstream: str, readers: Readers = tap_http2.readers) -> Iterator[Tap]:
    """Give a tap before a server's HOST:PORT, whose calls are recorded."""
    with Tap(upstream, readers) as tap:
        _TAPS.append(tap)
        yield tap
        _TAPS.remove(tap)


@pytest.fixture
def examples_tap(examples: str) -> Tap:
    """Return the tap before Triton's examples: at its upstream no call counts as a client's."""
    (tap,) = [tap for tap in _TAPS if tap.address == examples]
    return tap


@pytest.fixture(autouse=True)
def _recorded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Record what the client of a test with the mark `client` did, if the test passes."""
    for tap in _TAPS:
        tap.take()
    yield
    mark = request.node.get_closest_marker("client")
    if mark is not None and request.node.stash.get(_PASSED, False):
        calls = [call for tap in _TAPS for call in tap.take()]
        one = "transport" in request.fixturenames
        transports = [request.getfixturevalue("transport")] if one else record.TRANSPORTS
        record.note(mark.args[0], transports, calls)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether a test passed."""
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the test of the tables come last, when all others have run."""
    items.sort(key=lambda item: item.get_closest_marker("last") is not None)


@pytest.fixture
def everything_ran(request: pytest.FixtureRequest) -> bool:
    """Tell whether every test with a client was chosen to run."""
    files = {item.path for item in request.session.items}
    here = Path(__file__).resolve().parent
    is_whole = not request.config.getoption("keyword") and "::" not in " ".join(request.config.args)
    return is_whole and set(here.glob("test_*.py")) <= files


def installed(path: Path) -> Path:
    """Return a path below the checkout, which must be there."""
    if not path.exists():
        missing(f"{path.relative_to(ROOT)} is not there")
    return path


def missing(what: str, remedy: str = "run `make tools`") -> NoReturn:
    """Skip the test, or fail it where CI is set, with what is missing and what to do."""
    reason = f"{what}: {remedy}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
