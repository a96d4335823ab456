"""The example of docs/python-backend.md does what the text says."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service import python_backend
from service.python_backend import Context, Request
from tests.integration.conftest import Serve
from tests.support.servers import ROOT

TEXT = (ROOT / "docs" / "python-backend.md").read_text()
CODE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
(CONFIG,) = re.findall(r"```protobuf\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_runs(tmp_path: Path, serve: Serve) -> None:
    """Files where the text puts them, served, answer its client a word at a time."""
    model, client = CODE
    version = tmp_path / "models" / "speaker" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    (version / "model.py").write_text(model)
    with serve(tmp_path / "models", "--allow-python-backend") as server:
        script = client.replace("127.0.0.1:8001", server.address)
        assert script != client
        ran = subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (ran.stdout, ran.stderr) == ("water\nunder\npressure\n", "")


@pytest.mark.parametrize("kind", [Context, Request])
def test_the_table_has_the_whole_interface(kind: type) -> None:
    """Each public name of what a model is given stands in the text."""
    names = [name for name in dir(kind) if not name.startswith("_")]
    missing = [name for name in names if f".{name}" not in TEXT]
    assert missing == []


def test_the_text_names_what_may_be_imported() -> None:
    """So does each function and class of the module."""
    for name, member in vars(python_backend).items():
        if inspect.getmodule(member) is python_backend and not name.startswith("_"):
            assert f"`{name}" in TEXT or f"`{name.lower()}" in TEXT, name
