"""The example, trained once, and an import path on which it is found."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from examples.digits.data import Digits, load
from examples.digits.train import Settings, Training, fit, save
from tests.support.servers import ROOT

DIGITS = "examples.digits.model:build_model"


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where `examples` is importable, and keep the import path as it is."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="session")
def digits() -> Digits:
    """Load the handwritten digits."""
    return load()


@pytest.fixture(scope="session")
def trained(digits: Digits) -> Iterator[Training]:
    """Train the example once."""
    threads = torch.get_num_threads()
    yield fit(digits, Settings())
    torch.set_num_threads(threads)


@pytest.fixture
def weights(trained: Training, tmp_path: Path) -> Path:
    """Save the trained weights."""
    return save(trained, tmp_path / "trained")[0]


def digits_command(weights: Path, repository: Path, *more: str) -> list[str]:
    """Return the arguments that export the example with trained weights."""
    return [DIGITS, "--weights", str(weights), "--name", "digits", "--repository",
            str(repository), *more]  # fmt: skip
