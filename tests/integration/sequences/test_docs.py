"""What docs/sequences.md shows runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.servers import ROOT, serve

_RUN_S = 100.0
PAGE = (ROOT / "docs" / "sequences.md").read_text()
BLOCKS = dict(re.findall(r"<!-- tested: (\S+) -->\n```python\n(.*?)```", PAGE, re.DOTALL))


def run(program: str, directory: Path) -> list[str]:
    """Run a program of the page and return the lines that it prints."""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_gru_streams_with_no_configuration(tmp_path: Path) -> None:
    """The module is exported, served, and asked by the programs of the page."""
    run(BLOCKS["export"], tmp_path)
    program = BLOCKS["stream"] + BLOCKS["ids"]
    with serve(tmp_path / "models", "--stream-state") as server:
        printed = run(program.replace("127.0.0.1:8001", server.address), tmp_path)
    assert printed == ["(1, 1, 16)"] * 21
