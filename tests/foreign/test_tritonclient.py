"""Triton's own client against Penstock, unchanged, in an environment of its own.

tritonclient needs protobuf 6 and registers the same message names as Penstock, so it runs in a
process and a virtual environment apart. The cases stand in triton/, one function each.
"""

import ast
import subprocess
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).resolve().parent / "triton"
_CASE_S = 90.0


def _cases() -> list[tuple[Path, str]]:
    return [
        (program, node.name)
        for program in sorted(PROGRAMS.glob("*.py"))
        for node in ast.parse(program.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]


@pytest.mark.foreign
@pytest.mark.parametrize(
    ("program", "case"),
    [pytest.param(*case, id=f"{case[0].stem}-{case[1]}") for case in _cases()],
)
def test_tritonclient(program: Path, case: str, address: str, triton_python: Path) -> None:
    """Triton's client gets from Penstock what its case in triton/ states."""
    run = subprocess.run(
        [triton_python, program, case, address],
        capture_output=True,
        text=True,
        timeout=_CASE_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
