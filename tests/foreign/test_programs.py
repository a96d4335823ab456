"""Clients in Python that nobody here wrote against Penstock, each in an environment of its own.

They need other versions of protobuf and register the same message names as Penstock, so they run in
processes apart. The programs stand in directories beside this file, a function test_* a case.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.foreign.conftest import installed
from tests.support.servers import ROOT

HERE = Path(__file__).resolve().parent
_PROGRAM_S = 110.0
# Where each client is installed, and the directory of its programs.
CLIENTS = {
    "grpclib": (".venv-clients", "grpclib"),
    "kserve": (".venv-clients", "kserve"),
    "mlserver": (".tools/mlserver", "mlserver"),
    "old_triton": (".tools/pytriton", "triton_examples"),
    "pytriton": (".tools/pytriton", "pytriton"),
    "reflection": (".venv-clients", "reflection"),
    "tritonclient": (".venv-clients", "triton_examples"),
}


def run_program(program: Path, environment: str, address: str, examples: str = "") -> None:
    """Run all cases of a program; none may fail. examples: where the models lie."""
    python = installed(ROOT / environment / "bin" / "python")
    run = subprocess.run(
        [python, HERE / "run_cases.py", program, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PROGRAM_S,
        check=False,
        env={**os.environ, "EXAMPLES": examples},
    )
    assert run.returncode == 0, run.stdout
    assert ": ok\n" in run.stdout, run.stdout


def _programs(client: str, environment: str, directory: str) -> list[object]:
    return [
        pytest.param(
            environment, program, id=f"{client}-{program.stem}", marks=pytest.mark.client(client)
        )
        for program in sorted((HERE / directory).glob("*.py"))
        if re.search("^(async )?def test_", program.read_text(), re.MULTILINE)
    ]


@pytest.mark.foreign
@pytest.mark.parametrize(
    ("environment", "program"), _programs("tritonclient", ".venv-clients", "triton")
)
def test_tritonclient(environment: str, program: Path, address: str) -> None:
    """Triton's own client gets from Penstock what the cases of its programs state."""
    run_program(program, environment, address)


@pytest.mark.foreign
@pytest.mark.parametrize(
    ("environment", "program"),
    [case for client, where in CLIENTS.items() for case in _programs(client, *where)],
)
def test_program(environment: str, program: Path, examples: str, examples_root: Path) -> None:
    """The client gets from Penstock what the cases of its program state."""
    run_program(program, environment, examples, str(examples_root))


@pytest.mark.foreign
@pytest.mark.client("health_probe")
@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "simple"])
def test_health_probe(service: str, examples: str) -> None:
    """grpc_health_probe finds the server, its service and its models SERVING, others not."""
    probe = installed(ROOT / ".tools" / "bin" / "grpc-health-probe")

    def run(name: str) -> int:
        command = [str(probe), "-addr", examples, "-service", name]
        command += ["-connect-timeout", "30s", "-rpc-timeout", "30s"]  # 1 s unless told
        return subprocess.run(command, timeout=_PROGRAM_S, check=False).returncode

    assert run(service) == 0
    assert run("absent") == 3  # its code for a check that failed


@pytest.mark.foreign
def test_clients_live_in_one_process() -> None:
    """Penstock's client and Triton's, which know the same messages, do not clash."""
    python = installed(ROOT / ".venv-clients" / "bin" / "python")
    code = (
        "import tritonclient.grpc; from service.client import Client; import tritonclient.grpc.aio"
    )
    for order in (code, "; ".join(reversed(code.split("; ")))):
        run = subprocess.run(
            [python, "-c", order], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
