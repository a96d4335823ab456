"""@grpc/grpc-js, the JavaScript stack, against Penstock; the cases stand in node/client.js."""

import re
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parent / "node" / "client.js"
PROTOS = PROGRAM.parents[3] / "protos"
_CASE_S = 60.0


@pytest.mark.foreign
@pytest.mark.client("grpc_js")
@pytest.mark.parametrize("case", re.findall(r"^  async (\w+)\(", PROGRAM.read_text(), re.MULTILINE))
def test_grpc_js(case: str, node: list[str], address: str) -> None:
    """grpc-js gets from Penstock what its case in node/client.js states."""
    run = subprocess.run(
        [*node, str(PROGRAM), case, address, str(PROTOS)],
        capture_output=True,
        text=True,
        timeout=_CASE_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
