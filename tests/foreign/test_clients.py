"""The example clients of clients/, one a language, against a live server.

Each does the same seven steps and prints the same eight lines; `make clients` builds them.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import models as triton_models
from tests.foreign.conftest import installed, tapped
from tests.support import servers
from tests.support.certificates import Authority
from tests.support.stub import SERVICE
from tests.support.tap import Tap

LANGUAGES = ("python", "go", "java", "javascript", "rust", "cpp")
README = (servers.ROOT / "clients" / "README.md").read_text()
_SWAPPED = "onnx_int32_int32_int32"  # its newest version
_IN_FLIGHT = 100
_RUN_S = 60.0
_SHAPE = r"INT32\[-1,16\]"
_REFUSAL = "Request for unknown model: 'no_such_model' is not found"
_STEPS = (
    r"health: SERVING",
    r"server: \w+ \d+\.\d+\S*",
    rf"model: simple: INPUT0 {_SHAPE}, INPUT1 {_SHAPE} -> OUTPUT0 {_SHAPE}, OUTPUT1 {_SHAPE}",
    r"unary: 16 sums and 16 differences are right",
    r"stream: 100 answers in order, all right",
    rf"refused call: (NOT_FOUND|NotFound): {_REFUSAL}",
    rf"refused in a stream: {_REFUSAL}",
    r"the stream went on",
)

pytestmark = pytest.mark.foreign


@pytest.fixture(scope="module")
def simple_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository of two models with one signature: simple, and one with outputs swapped."""
    root = tmp_path_factory.mktemp("simple")
    triton_models.write(root, ["simple", _SWAPPED])
    return root


@pytest.fixture(scope="module")
def server(
    simple_models: Path, transport: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.RunningServer]:
    """Serve the models on a port and a Unix socket."""
    socket = tmp_path_factory.mktemp("socket") / "grpc.sock"
    flags = ("--transport", transport, "--unix-socket", str(socket))
    with servers.serve(simple_models, *flags) as running:
        yield running


@pytest.fixture(scope="module")
def tap(server: servers.RunningServer) -> Iterator[Tap]:
    """Stand before the server's port."""
    with tapped(server.address) as between:
        yield between


@pytest.fixture(scope="module")
def tls_server(
    simple_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Serve the models with TLS: the address, and the certificate of the authority."""
    authority = Authority(tmp_path_factory.mktemp("authority"), "authority")
    pair = authority.sign("server")
    flags = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
    with servers.serve(simple_models, *flags) as running:
        # grpc-js warns of TLS to an address that is no name.
        yield running.address.replace("127.0.0.1", "localhost"), authority.certificate


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.client(name)) for name in LANGUAGES],
)
def client(request: pytest.FixtureRequest) -> Path:
    """Find the program of a language."""
    return installed(servers.ROOT / ".tools" / "clients" / request.param)


def run(client: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a client to its end."""
    return subprocess.run(
        [client, *arguments], capture_output=True, text=True, timeout=_RUN_S, check=False
    )


def expect_every_step(ended: subprocess.CompletedProcess[str]) -> None:
    """Hold a client's output against the steps, line by line."""
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for line, pattern in zip(ended.stdout.splitlines(), _STEPS, strict=True):
        assert re.fullmatch(pattern, line), f"{line!r} is not {pattern!r}"


def test_every_step_is_right(client: Path, tap: Tap) -> None:
    """A client goes through every step and finds every value right."""
    expect_every_step(run(client, tap.address))


def test_a_hundred_requests_are_in_flight(client: Path, tap: Tap) -> None:
    """A client sends all requests of its stream before it has the answer to one of them."""
    with tap.holding(f"{SERVICE}/ModelStreamInfer", _IN_FLIGHT) as hold:
        ended = run(client, tap.address)
    waited = f"it sent {hold.came} requests, then waited for an answer, or ended: {ended.stderr}"
    assert hold.came == _IN_FLIGHT, waited
    expect_every_step(ended)


def test_unix_socket(client: Path, server: servers.RunningServer) -> None:
    """A client does the same over a Unix socket."""
    expect_every_step(run(client, server.addresses[1], "simple"))


def test_a_wrong_value_is_noticed(client: Path, server: servers.RunningServer) -> None:
    """A client that gets differences for sums says which output is wrong, and exits with 1."""
    ended = run(client, server.address, _SWAPPED)
    assert ended.returncode == 1
    assert re.fullmatch(
        r"error: single: OUTPUT0 is .*, expected .*", ended.stderr.strip(), re.DOTALL
    )


def test_tls(client: Path, tls_server: tuple[str, Path]) -> None:
    """A client talks TLS when it is given the authority's certificate."""
    address, authority = tls_server
    expect_every_step(run(client, "--ca", str(authority), address))


def test_nobody_listens(client: Path) -> None:
    """A client without a server says UNAVAILABLE, and exits with 1."""
    ended = run(client, "127.0.0.1:1")
    assert ended.returncode == 1
    assert re.match(r"error: UNAVAILABLE: ", ended.stderr, re.IGNORECASE)


def test_a_missing_argument_is_shown(client: Path) -> None:
    """A client without an address shows how it is called, and exits with 2."""
    ended = run(client)
    assert ended.returncode == 2
    assert re.search(r"usage: .*ADDRESS \[MODEL\]", ended.stderr)


def test_the_answer_in_the_readme_is_a_real_one() -> None:
    """What clients/README.md shows as the output of a client is what every client prints."""
    (sample,) = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    expect_every_step(subprocess.CompletedProcess([], 0, sample, ""))


@pytest.mark.parametrize(("environment", "exit_code"), [({}, 0), ({"CI": "true"}, 2)])
def test_a_missing_tool_is_named(environment: dict[str, str], exit_code: int) -> None:
    """Where a tool is missing, make names it and goes on; in CI it fails."""
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "MAKEFLAGS"}}
    ended = subprocess.run(
        ["make", "-C", servers.ROOT / "clients", "javascript", "NODE=no-such-node"],
        env=kept | environment, capture_output=True, text=True, timeout=_RUN_S, check=False,
    )  # fmt: skip
    assert "client in javascript not built, not on PATH: no-such-node" in ended.stderr
    assert ended.returncode == exit_code
