"""What docs/rest.md says is so: its commands print what it shows, its table is that of the code."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.rest.status import STATUSES
from service.transport.seam import Code
from tests.support import models
from tests.support.servers import ROOT, RunningServer, serve

TEXT = (ROOT / "docs" / "rest.md").read_text()
EXAMPLES = re.findall(r"<!-- tested -->\n```sh\n(.*?)```\n\n```\w+\n(.*?)```", TEXT, re.DOTALL)
_RUN_S = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Serve Triton's model `simple`."""
    root = tmp_path_factory.mktemp("models")
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    with serve(root) as running:
        yield running


def test_there_are_examples() -> None:
    """Every block that is marked as tested has its output behind it."""
    assert len(EXAMPLES) == TEXT.count("<!-- tested -->") == TEXT.count("```sh") > 3


@pytest.mark.parametrize("example", EXAMPLES, ids=[str(i) for i in range(len(EXAMPLES))])
def test_example_prints_what_is_shown(
    example: tuple[str, str], server: RunningServer, tmp_path: Path
) -> None:
    """The commands run as they stand, and print exactly what stands below them."""
    if shutil.which("curl") is None and not os.environ.get("CI"):
        pytest.skip("curl is not here")
    commands, shown = example
    run = subprocess.run(
        ["sh", "-eu", "-c", commands.replace("127.0.0.1:8002", server.http_address)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=True,
    )
    assert run.stdout.rstrip("\n") == shown.rstrip("\n")


def test_table_of_statuses_is_that_of_the_code() -> None:
    """Each code of gRPC stands in the row of its status."""
    told = {
        Code[code]: int(status)
        for status, codes in re.findall(r"^\| (\d{3}) \| ([^|]*) \|", TEXT, re.MULTILINE)
        for code in re.findall(r"`([A-Z_]+)`", codes)
    }
    assert told == {code: status for code, status in STATUSES.items() if code is not Code.OK}
