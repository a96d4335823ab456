"""The command that exports the example: what it publishes and says, once or twice at a time."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from examples.digits.data import Digits
from examples.digits.train import Training
from exporter.cli import main
from service.inference.backend import Interrupt
from service.repository.layout import Repository
from service.repository.manifest import Axis, read_manifest
from service.runtime.session import Session, SessionConfig
from tests.integration.export.conftest import DIGITS, digits_command
from tests.support import sequences
from tests.support.servers import ROOT
from tests.support.signed import write_keys


def test_the_command_exports_the_example(
    weights: Path, trained: Training, digits: Digits, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """penstock-export publishes what was trained, and says where, how close and what next."""
    assert main(digits_command(weights, tmp_path / "models", "--json")) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    path = tmp_path / "models" / "digits" / "1"
    assert (report["path"], report["version"]) == (str(path), 1)
    for part in (f"published {path}", "image FP32[-1,784]", "max rel", "penstock serve "):
        assert part in captured.err
    session = Session(path / "model.onnx", SessionConfig())
    scores = session.run({"image": digits.test_images}, ["logits"], Interrupt())["logits"]
    accuracy = float((scores.argmax(axis=1) == digits.test_labels).mean())
    assert accuracy == pytest.approx(trained.test_accuracy, abs=1e-12)


def test_quiet_says_nothing(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--quiet leaves stdout and stderr empty when all goes well."""
    assert main(digits_command(weights, tmp_path / "models", "--quiet")) == 0
    assert capsys.readouterr() == ("", "")


def test_samples_and_inputs_on_the_command_line(tmp_path: Path) -> None:
    """--input names and types, --sample gives real rows, and both are in the golden pairs."""
    (tmp_path / "plain_linear.py").write_text(
        "from torch import nn\ndef build(): return nn.Linear(3, 2)\n"
    )
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "s.npz", input=rows)
    arguments = [
        f"{tmp_path / 'plain_linear.py'}:build", "--name", "m", "--repository",
        str(tmp_path / "models"), "--input", "input:float32[batch,3]", "--sample",
        str(tmp_path / "s.npz"), "--output", "scores", "--version", "4", "--max-batch-size", "8",
    ]  # fmt: skip
    assert main(arguments) == 0
    path = tmp_path / "models" / "m" / "4"
    with np.load(path / "golden.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["1.in.input"], rows)
        assert "1.out.scores" in archive.files
    assert main(arguments) == 1  # version 4 exists


def test_two_commands_at_the_same_time_give_two_versions(weights: Path, tmp_path: Path) -> None:
    """Neither overwrites the other or fails because of it, and both give the same bytes."""
    command = [
        sys.executable,
        "-m",
        "exporter",
        *digits_command(weights, tmp_path / "models", "--quiet"),
    ]
    processes = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    (model,) = Repository(tmp_path / "models").scan()
    assert [version.version for version in model.versions] == [1, 2]
    assert sorted(p.name for p in model.directory.iterdir()) == ["1", "2"]
    manifests = [read_manifest(version.directory) for version in model.versions]
    assert manifests[0] is not None
    assert manifests[1] == replace(manifests[0], version=2)


def test_the_whole_command_from_a_file_of_options(weights: Path, tmp_path: Path) -> None:
    """A signed, labelled version from a TOML file; a dry run before it leaves nothing."""
    private, public = write_keys(tmp_path)
    (tmp_path / "labels.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    (tmp_path / "e.toml").write_text(
        f'source = "{DIGITS}"\nweights = "{weights}"\nname = "digits"\n'
        f'repository = "{tmp_path / "models"}"\nlabels = "{tmp_path / "labels.txt"}"\n'
        f'key = "{private}"\nmax-batch-size = 8\nbatch-bucket = [4]\nquiet = true\n'
    )
    command = ["--config", str(tmp_path / "e.toml")]
    assert main([*command, "--dry-run"]) == 0
    assert not (tmp_path / "models").exists()
    assert main(command) == 0
    version = tmp_path / "models" / "digits" / "1"
    manifest = read_manifest(version)
    assert manifest is not None
    assert manifest.axes == (Axis("batch", {"image": 0}, 1, 8, (1, 2, 3, 4, 8)),)
    assert (manifest.labels, manifest.warmup_batches) == ({"logits": "labels.txt"}, (1, 4, 8))
    report = json.loads((version / "report.json").read_text())
    assert report["parity"][0]["output"] == "logits"
    assert main(["verify-signature", str(version), "--key", str(public)]) == 0
    assert main(["lint", str(tmp_path / "models"), "--key", str(public), "--strict"]) == 0


def test_states_of_a_file_without_a_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`convert` and `verify` take --state as the export does, and prove what it pairs."""
    source, target = tmp_path / "sum.onnx", tmp_path / "model.onnx"
    source.write_bytes(sequences.accumulator())
    state = ["--state", "total_in=total_out"]
    assert main(["convert", str(source), "--out", str(target), *state]) == 0
    assert f"package {target} --name NAME --repository DIR --state total_in=total_out" in (
        capsys.readouterr().out
    )
    assert main(["verify", str(source), str(target), *state]) == 0
    assert main(["verify", str(source), str(target), "--state", "total_in=none"]) == 2
    assert "state total_in=none: expected INPUT=OUTPUT" in capsys.readouterr().err
