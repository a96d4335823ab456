"""`make demo`: the whole way, by the one command that the README shows first."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from examples.digits import client, demo
from examples.digits.data import load
from examples.digits.model import Mlp
from examples.digits.train import Epoch, Training

_ROOT = Path(__file__).parents[2]
_PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.timeout(300)  # it trains, exports and serves: 20 s on two idle cores
def test_the_demo_runs_from_training_to_a_clean_stop(tmp_path: Path) -> None:
    """Accuracy over gRPC is that of PyTorch, and there are figures, a picture and exit code 0."""
    finished = subprocess.run(
        [sys.executable, "-m", "examples.digits.demo", "--out", str(tmp_path)],
        cwd=_ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=280,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = dict(
        re.findall(
            r"^(PyTorch|ModelStreamInfer|ModelInfer)\D*(0\.\d{4})", finished.stdout, re.MULTILINE
        )
    )
    assert set(rows) == {"PyTorch", "ModelStreamInfer", "ModelInfer"}
    assert len(set(rows.values())) == 1
    assert float(rows["PyTorch"]) >= 0.95
    assert "exited with code 0" in finished.stdout
    assert (tmp_path / "demo.png").read_bytes().startswith(_PNG)


def test_the_demo_fails_if_the_server_answers_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An accuracy over gRPC that is not PyTorch's ends the demo with exit code 1."""
    history = (Epoch(1, 1.0, 0.1, 0.1),)
    monkeypatch.setattr(demo, "fit", lambda _digits, _settings: Training(Mlp(), history, True))
    honest, labels = client.stream, load().test_labels

    def too_good(channel: grpc.Channel, images: client.Images) -> client.Pass:
        answered = honest(channel, images)
        return replace(answered, predictions=np.resize(labels, len(images)))

    monkeypatch.setattr(client, "stream", too_good)
    monkeypatch.chdir(_ROOT)
    assert demo.main(["--out", str(tmp_path)]) == 1
    assert "ModelStreamInfer: accuracy 1.0 over gRPC, but 0." in capsys.readouterr().err
