"""The examples, each in its small form: train, export, serve, ask, compare."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from examples.small import cnn, encoder, gru, round_trip, trees
from tests.support.servers import ROOT

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.mark.parametrize("example", [cnn, gru, encoder, trees], ids=lambda e: e.__name__)
def test_small_examples_answer_over_grpc_as_their_models(
    example: object, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The share of right answers over gRPC is that of the model itself."""
    monkeypatch.chdir(ROOT)  # the server is `python -m service`
    assert example.main(["--quick", "--out", str(tmp_path)]) == 0  # type: ignore[attr-defined]
    shares = re.findall(r"(0\.\d{4}).* right", capfd.readouterr().out)
    assert len(shares) == 2
    assert shares[0] == shares[1]
    assert float(shares[0]) > 0.6


def test_an_example_fails_if_the_server_answers_something_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores that are not the model's own end the example with exit code 1."""
    monkeypatch.chdir(ROOT)

    def spoilt(quick: bool) -> round_trip.Trained:  # noqa: FBT001 (as examples have it)
        trained = trees.train(quick)
        trained.source[0] += 0.5
        return trained

    assert round_trip.main("trees", "spoilt", spoilt, ["--quick", "--out", str(tmp_path)]) == 1
    assert "differ from the model's own" in capfd.readouterr().err


def test_two_frameworks_side_by_side(tmp_path: Path) -> None:
    """PyTorch and TensorFlow learn the same digits, one server answers for both, one picture."""
    finished = subprocess.run(
        [sys.executable, "-m", "examples.digits_keras.demo", "--quick", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, check=False, text=True, timeout=280,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = re.findall(
        r"^digits_(torch|keras) +(0\.\d+) right over gRPC, (0\.\d+)", finished.stdout, re.MULTILINE
    )
    assert [name for name, _, _ in rows] == ["torch", "keras"]
    for _, served, own in rows:
        assert float(served) == pytest.approx(float(own), abs=0.003)
        assert float(served) > 0.8
    assert (tmp_path / "side_by_side.png").read_bytes().startswith(b"\x89PNG")
