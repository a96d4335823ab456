"""The example clients of clients/, one a language, against a live server.

Each does the same seven steps and prints the same eight lines; `make clients` builds them.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from onnx import helper

from service.tensors import INT32
from service.transport.native import is_installed
from tests.foreign.conftest import installed, missing
from tests.support import models, servers
from tests.support.certificates import Authority

LANGUAGES = ("python", "go", "java", "javascript", "rust", "cpp")
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
    """Write a repository of two models with one signature: simple, and one that adds wrongly."""
    root = tmp_path_factory.mktemp("simple")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    wrong = models.SIMPLE_CONFIG.replace('"simple"', '"swapped"')
    models.publish(root, "swapped", _swapped(), config=wrong)
    return root


@pytest.fixture(scope="module", params=["native", "threaded"])
def server(
    simple_models: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.RunningServer]:
    """Serve the models on a port and a Unix socket."""
    if request.param == "native" and not is_installed():
        missing("penstock-transport is not installed", "run `make native` (needs cargo)")
    socket = tmp_path_factory.mktemp("socket") / "grpc.sock"
    flags = ("--transport", request.param, "--unix-socket", str(socket))
    with servers.serve(simple_models, *flags) as running:
        yield running


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


@pytest.fixture(scope="module", params=LANGUAGES)
def client(request: pytest.FixtureRequest) -> Path:
    """Find the program of a language."""
    path: Path = servers.ROOT / ".tools" / "clients" / request.param
    if not path.exists():
        missing(f"the client in {request.param} is not built", "run `make clients`")
    return path


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


def test_every_step_is_right(client: Path, server: servers.RunningServer) -> None:
    """A client goes through every step and finds every value right."""
    expect_every_step(run(client, server.address))


def test_unix_socket(client: Path, server: servers.RunningServer) -> None:
    """A client does the same over a Unix socket."""
    expect_every_step(run(client, server.addresses[1], "simple"))


def test_a_wrong_value_is_noticed(client: Path, server: servers.RunningServer) -> None:
    """A client that gets differences for sums says which output is wrong, and exits with 1."""
    ended = run(client, server.address, "swapped")
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


def test_the_options_give_every_language_its_package() -> None:
    """The proto files of a package agree in the options of every language."""
    if shutil.which("node") is None:
        missing("node, which buf is run by, is not on PATH")
    buf = installed(servers.ROOT / ".tools" / "node" / "node_modules" / ".bin" / "buf")
    rules = (
        "GO_PACKAGE JAVA_PACKAGE JAVA_MULTIPLE_FILES CSHARP_NAMESPACE PHP_NAMESPACE RUBY_PACKAGE "
        "SWIFT_PREFIX"
    )
    names = ",".join(f'"PACKAGE_SAME_{rule}"' for rule in rules.split())
    config = f'{{"version": "v2", "lint": {{"use": [{names}, "IMPORT_USED"]}}}}'
    ended = subprocess.run(
        [buf, "lint", "--config", config, servers.ROOT / "protos"],
        capture_output=True, text=True, timeout=_RUN_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr


def _swapped() -> bytes:
    nodes = [
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    inputs, outputs = (
        [(f"{side}{i}", INT32, ("batch", 16)) for i in range(2)] for side in ("INPUT", "OUTPUT")
    )
    return models.onnx_model(nodes, inputs, outputs)
