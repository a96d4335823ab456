"""Commands to run, and what they are run on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.cli import main
from tests.support import models
from tests.support.commands import Ran, Run
from tests.support.servers import RunningServer, serve


@pytest.fixture
def penstock(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run(*arguments: str | Path) -> Ran:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three rows for the model mlp."""
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.random.default_rng(0).random((3, 784), np.float32))
    return path


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Serve one model and nothing else."""
    root = tmp_path_factory.mktemp("alone")
    models.publish(root, "mlp", models.mlp())
    with serve(root) as running:
        yield running


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository with a good model of two versions and three that cannot be served."""
    root = tmp_path_factory.mktemp("broken")
    models.publish(root, "good", models.mlp())
    models.publish(root, "good", models.mlp(), version=3)
    models.publish(root, "cut", models.mlp()[:3000])
    models.publish(root, "wrong", models.mlp(), config='\nmax_batch_size: "many"')
    (root / "empty").mkdir()
    return root
