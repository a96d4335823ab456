"""What docs/client.md shows runs as it stands there."""

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from service.client import errors
from tests.support import models, python_models, sequences
from tests.support.servers import ROOT, RunningServer, serve

_PAGE = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
_BLOCKS = dict(re.findall(r"<!-- tested: (\S+) -->\n```python\n(.*?)```", _PAGE, re.DOTALL))
_COUNTDOWN = """
import numpy as np
class Model:
    def __init__(self, context):
        pass
    def infer(self, request):
        for value in range(int(request.inputs["X"][0]), 0, -1):
            yield {"Y": np.array([value], np.int32)}
"""
# What each block prints, numbers aside.
_PRINTED = {
    "ask": r"\(3, 10\) float32\n(\d -?\d+\.\d+ \n){3}",
    "asyncio": r"20 \(1, 10\)\n(\d+ \d\n){20}",
    "stream": r"50 InvalidArgument\n",
    "open-stream": r"",
    "many": r"\[3\]\n\[2\]\n\[1\]\n",
    "sequence": r"\[\[6\.\]\]\n\[\[1\.\]\]\n\[\[3\.\]\]\n\[\[6\.\]\]\n",
    "shared-memory": r"(\(64, 10\)\n){3}",
    "options": r"True\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Serve the models of the page."""
    root: Path = tmp_path_factory.mktemp("page")
    models.publish(root, "digits", models.mlp())
    config = sequences.accumulator_config("total")
    models.publish(root, "total", sequences.accumulator(), config=config)
    python_models.publish(root, "countdown", _COUNTDOWN, decoupled=True)
    with serve(root, "--allow-python-backend", "--allow-client-shm") as running:
        yield running


def test_every_block_is_known() -> None:
    """The blocks of the page that are marked are those that are tested, and are all in Python."""
    assert _BLOCKS.keys() == _PRINTED.keys()
    assert _PAGE.count("```python") == len(_BLOCKS)


@pytest.mark.parametrize("block", _PRINTED)
def test_a_block_runs(server: RunningServer, block: str) -> None:
    """Each example runs by itself and prints what its reader expects."""
    program = _BLOCKS[block].replace("127.0.0.1:8001", server.address)
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(program, f"docs/client.md: {block}", "exec"), {})  # noqa: S102  our own page
    assert re.fullmatch(_PRINTED[block], printed.getvalue())


def test_the_tree_of_errors_is_that_of_the_module() -> None:
    """The page shows the tree as errors.py draws it."""
    assert errors.__doc__ is not None
    tree = errors.__doc__.split("\n\n", 1)[1].rstrip()
    assert f"```text\n{tree}\n```" in _PAGE


def test_links_lead_somewhere() -> None:
    """Each relative link of the page names a file of the checkout."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", _PAGE):
        assert (ROOT / "docs" / target).exists(), target
