"""The command that exports: each failure has its exit code, and leaves nothing."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from exporter.cli import main
from tests.integration.export.conftest import digits_command
from tests.support.servers import ROOT
from tests.support.waiting import eventually
from tests.unit.exporter.modules import Classifier

_FAULTY = """
import torch
from torch import nn

class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)

class Deciding(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x

def build():
    return nn.Linear(784, 10)
"""


@pytest.mark.parametrize(
    ("builder", "more", "code", "says"),
    [
        ("build", [], 2, "no example inputs: say what forward takes"),
        ("bild", ["--input", "x:float32[batch,4]"], 2, "has no 'bild'"),
        ("build", ["--input", "y:float32[batch,784]"], 2, "do not fit forward(input"),
        ("build", ["--input", "input:float32[784]"], 2, "must be called 'batch'"),
        ("Deciding", ["--input", "x:float32[batch,4]"], 4, "value of a tensor"),
        ("Noisy", ["--input", "x:float32[batch,4]"], 5, "max rel"),
        ("Noisy", ["--input", "x:float32[batch,4]", "--opset", "99"], 2, "opset is 99"),
        ("Noisy", ["--input", "x:float32[batch,4]", "--rtol", "7"], 2, "--rtol is 7"),
    ],
)
def test_failures_have_their_exit_codes(
    builder: str, more: Sequence[str], code: int, says: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """2 for wrong usage, 4 for a failed conversion, 5 for a failed proof; nothing published."""
    (tmp_path / "faulty.py").write_text(_FAULTY)
    repository = tmp_path / "models"
    arguments = [f"{tmp_path / 'faulty.py'}:{builder}", "--name", "m", "--repository",
                 str(repository), "--json", *more]  # fmt: skip
    assert main(arguments) == code
    captured = capsys.readouterr()
    assert says in captured.err
    assert json.loads(captured.out)["published"] is False
    assert not repository.exists()


def test_an_unsafe_file_is_refused_with_its_own_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pickled module is not loaded: exit code 3, and how to save weights instead."""
    torch.save(Classifier(), tmp_path / "whole.pt")
    assert main(digits_command(tmp_path / "whole.pt", tmp_path / "models")) == 3
    assert "safetensors.torch.save_model" in capsys.readouterr().err


def test_weights_that_do_not_fit_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of another module give a table and exit code 1."""
    save_file(Classifier().state_dict(), tmp_path / "other.safetensors")
    assert main(digits_command(tmp_path / "other.safetensors", tmp_path / "models")) == 1
    assert re.search(r"other shape +hidden\.weight +\[5,6\] +\[128,784\]", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("line", "timeout_s", "code", "says"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", 100, 7, r"crashing\.py:Crashing crashed \(SIGS"),
        ("threading.Event().wait()", 8, 7, r"took longer than 8 s and was stopped"),
        ("raise MemoryError", 100, 4, r"MemoryError.*\n.*crashing\.py:5: raise MemoryError"),
    ],
)
def test_a_crash_of_the_user_s_code_is_an_error(
    line: str, timeout_s: int, code: int, says: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What ends, blocks or exhausts the child leaves the command alive, and nothing behind."""
    (tmp_path / "crashing.py").write_text(
        "import os, signal, threading\nfrom torch import nn\n"
        "class Crashing(nn.Module):\n"
        "    def forward(self, x):\n"
        f"        {line}\n"
    )
    arguments = [
        f"{tmp_path / 'crashing.py'}:Crashing", "--name", "m", "--repository",
        str(tmp_path / "models"), "--input", "x:float32[batch,2]", "--timeout", str(timeout_s),
    ]  # fmt: skip
    assert main(arguments) == code
    assert re.search(says, capsys.readouterr().err)
    assert not (tmp_path / "models").exists()


def test_a_terminated_command_leaves_nothing(tmp_path: Path) -> None:
    """SIGTERM in the middle of an export unwinds it: no version, no directory, exit code 130."""
    (tmp_path / "waiting.py").write_text(
        "import threading, torch\nfrom torch import nn\n"
        "class Waiting(nn.Module):\n"
        "    def forward(self, x):\n"
        f"        open({str(tmp_path / 'in forward')!r}, 'w').close()\n"
        "        threading.Event().wait()\n"
        "        return x\n"
    )
    command = [
        sys.executable, "-m", "exporter", f"{tmp_path / 'waiting.py'}:Waiting", "--name", "m",
        "--repository", str(tmp_path / "models"), "--input", "x:float32[batch,2]", "--quiet",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT) as process:
        eventually((tmp_path / "in forward").exists, "forward to be called")
        assert (tmp_path / "models" / "m").is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    assert not (tmp_path / "models").exists()
