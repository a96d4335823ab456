"""What docs/shared-memory.md shows runs as it stands there."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.foreign.conftest import installed
from tests.support import models, servers
from tests.support.servers import ROOT


@pytest.mark.foreign
def test_the_example_runs(tmp_path: Path) -> None:
    """The program of the page prints the sums, and leaves no object behind."""
    (example,) = re.findall(
        r"^```python\n(.*?)^```",
        (ROOT / "docs" / "shared-memory.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    models.publish(tmp_path, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    with servers.serve(tmp_path, "--allow-client-shm") as server:
        run = subprocess.run(
            [installed(ROOT / ".venv-clients" / "bin" / "python"), "-"],
            input=example.replace("SERVER", server.address),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.split() == ["[[", *(str(2 * number) for number in range(15)), "30]]"]
    assert not Path("/dev/shm/my_tensors").exists()  # noqa: S108  named in the example
