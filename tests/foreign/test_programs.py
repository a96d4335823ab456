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
ENVIRONMENTS = {
    "grpclib": ".venv-clients",
    "kserve": ".venv-clients",
    "mlserver": ".tools/mlserver",
    "old_triton": ".tools/pytriton",
    "pytriton": ".tools/pytriton",
    "reflection": ".venv-clients",
    "triton_examples": ".venv-clients",
}
_CLIENT_OF = {"triton": "tritonclient", "triton_examples": "tritonclient"}
_PROGRAM_S = 110.0


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


# Examples of what is not served yet.
_NOT_YET: set[str] = set()


def _programs(*directories: str) -> list[object]:
    return [
        pytest.param(
            program,
            id=f"{directory}-{program.stem}",
            marks=pytest.mark.client(_CLIENT_OF.get(directory, directory)),
        )
        for directory in directories
        for program in sorted((HERE / directory).glob("*.py"))
        if program.stem not in _NOT_YET
        if re.search("^(async )?def test_", program.read_text(), re.MULTILINE)
    ]


@pytest.mark.foreign
@pytest.mark.parametrize("program", _programs("triton"))
def test_tritonclient(program: Path, address: str) -> None:
    """Triton's own client gets from Penstock what the cases of its programs state."""
    run_program(program, ".venv-clients", address)


@pytest.mark.foreign
@pytest.mark.parametrize("program", _programs(*ENVIRONMENTS))
def test_program(program: Path, examples: str, examples_root: Path) -> None:
    """The client gets from Penstock what the cases of its program state."""
    run_program(program, ENVIRONMENTS[program.parent.name], examples, str(examples_root))


@pytest.mark.foreign
@pytest.mark.client("health_probe")
@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "simple"])
def test_health_probe(service: str, examples: str) -> None:
    """grpc_health_probe finds the server, its service and its models SERVING, others not."""
    probe = installed(ROOT / ".tools" / "bin" / "grpc-health-probe")

    def run(name: str) -> int:
        command = [str(probe), "-addr", examples, "-service", name]
        return subprocess.run(command, timeout=_PROGRAM_S, check=False).returncode

    assert run(service) == 0
    assert run("absent") == 3  # its code for a check that failed
