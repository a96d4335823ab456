"""What a stranger reads is so: the code runs, help texts and settings are the program's."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from service.client import Client
from service.config import Settings
from service.settings_sources import load_settings
from tests.support.models import mlp, publish
from tests.support.servers import ROOT, RunningServer, serve

README = (ROOT / "README.md").read_text()
_TESTED = re.compile(r"<!-- tested: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
BLOCKS = dict(_TESTED.findall(README))
_RUN_S = 100.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train and export the first model as a reader would; return the repository."""
    folder = tmp_path_factory.mktemp("reader")
    printed = run_python(sys.executable, BLOCKS["first-model"], folder)
    assert printed.strip() == str(Path("models", "first", "1"))
    return folder / "models"


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    """Serve the first model."""
    with serve(models) as running:
        yield running


def test_every_marked_block_has_a_test() -> None:
    """The blocks that the README marks as tested are those that are tested here."""
    assert BLOCKS.keys() == {"first-model", "predict", "client", "curl", "grpcurl", "tritonclient"}


def test_predict_answers_the_first_model(server: RunningServer, tmp_path: Path) -> None:
    """The command of the README finds the class that the model was trained to see."""
    printed = run_shell(server, "predict", tmp_path)
    title, output, header, best, *_ = printed.splitlines()
    assert title.startswith(f"first at {server.address}: ")
    assert output == "output  FP32[1,2]"
    assert header.split() == ["row", "class", "score"]
    assert best.split()[:2] == ["0", "1"]


def test_sample_answer_has_the_form_of_a_real_one(server: RunningServer, tmp_path: Path) -> None:
    """What the README shows as the answer of predict differs from a real one in numbers only."""
    (sample,) = re.findall(r"```text\n(first at .*?)```", README, re.DOTALL)
    real = run_shell(server, "predict", tmp_path)
    assert without_numbers(sample) == without_numbers(real)


def test_sample_inspection_has_the_form_of_a_real_one(models: Path) -> None:
    """What the README shows as the answer of inspect differs from a real one in numbers only."""
    (sample,) = re.findall(r"```text\n(first 1  READY.*?)```", README, re.DOTALL)
    run = subprocess.run(
        [sys.executable, "-m", "service", "inspect", models],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    real = [line for line in run.stdout.splitlines() if not line.startswith("  made by")]
    assert without_numbers(sample) == without_numbers("\n".join(real))


def test_python_client_example(server: RunningServer, tmp_path: Path) -> None:
    """The client's example prints a shape, an answer a row in order, and the refusal."""
    printed = run_python(sys.executable, at(server, "client"), tmp_path).splitlines()
    assert printed[0] == "(100, 2)"
    assert [line.split()[0] for line in printed[1:101]] == [str(index) for index in range(100)]
    assert printed[101].startswith("INVALID_ARGUMENT")
    assert "Expected [-1,2], got [100,1]" in printed[101]


def test_grpcurl_example(server: RunningServer, tmp_path: Path) -> None:
    """The commands with grpcurl list the services, describe the model and run it."""
    program = installed(ROOT / ".tools" / "bin" / "grpcurl")
    printed = run_shell(server, "grpcurl", tmp_path, {"grpcurl": program})
    assert "inference.GRPCInferenceService\n" in printed
    assert '"platform": "onnxruntime_onnx"' in printed
    assert re.search('"model_?version": "1"', printed, re.IGNORECASE)
    assert re.search('"raw_?output_?contents": ', printed, re.IGNORECASE)


def test_curl_example(server: RunningServer, tmp_path: Path) -> None:
    """The command with curl prints the scores of one row."""
    if shutil.which("curl") is None:
        _missing("curl is not here: install it")
    (output,) = json.loads(run_shell(server, "curl", tmp_path))["outputs"]
    assert (output["name"], output["shape"], len(output["data"])) == ("output", [1, 2], 2)


def test_tritonclient_example(server: RunningServer, tmp_path: Path) -> None:
    """The example with Triton's client prints the scores of one row."""
    python = installed(ROOT / ".venv-clients" / "bin" / "python")
    printed = run_python(str(python), at(server, "tritonclient"), tmp_path)
    assert re.fullmatch(r"\[\[\s*\S+\s+\S+\s*\]\]\n", printed)


def test_generated_parts_are_up_to_date() -> None:
    """Settings and help texts of the README are those of the program."""
    run = check_readme(ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_changed_setting_is_noticed(tmp_path: Path) -> None:
    """A README that lacks a flag which the program has fails the check and is told which part."""
    for part in ("service", "exporter", "tools"):
        shutil.copytree(ROOT / part, tmp_path / part)
    stale = README.replace("--stream-window N     ", "--window N     ")
    assert stale != README
    (tmp_path / "README.md").write_text(stale)
    run = check_readme(tmp_path)
    assert run.returncode == 1
    assert "serve-help: out of date" in run.stdout


def test_table_has_every_setting() -> None:
    """Each setting has a row with its flag and its environment variable."""
    for name in Settings.__dataclass_fields__:
        assert f"`PENSTOCK_{name.upper()}`" in README, name


def test_links_lead_somewhere() -> None:
    """Each relative link of the README names a file of the checkout."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_toml_example_is_taken(tmp_path: Path) -> None:
    """The settings of docs/configuration.md are those that the server gets from the file."""
    path = tmp_path / "penstock.toml"
    path.write_text(_example("toml"))
    settings = load_settings({"config": str(path)}, environment={})
    assert (settings.repository, settings.max_batch_size, settings.watch) == ("models", 128, 5.0)


def test_config_example_serves(tmp_path: Path) -> None:
    """A model with the config.pbtxt of docs/configuration.md loads and has its limits."""
    config = _example("protobuf").replace('"image"', '"X"')  # the name of mlp's input
    publish(tmp_path, "digits", mlp(), config=config)
    with serve(tmp_path) as running, Client(running.address) as client:
        served = client.model_config("digits")
    assert served.max_batch_size == 32
    assert served.dynamic_batching.priority_levels == 2


def run_python(python: str, program: str, folder: Path) -> str:
    """Run a program in a folder and return what it prints."""
    return _run([python, "-c", program], folder, {"PYTHONPATH": str(ROOT)})


def run_shell(
    server: RunningServer, block: str, folder: Path, programs: Mapping[str, Path] | None = None
) -> str:
    """Run the commands of a block in a folder, with the programs on PATH; return the output."""
    script = folder / "penstock"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m service "$@"\n')
    script.chmod(0o755)
    for name, program in (programs or {}).items():
        (folder / name).symlink_to(program)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PENSTOCK_PORT": server.address.rpartition(":")[2],
    }
    return _run(["sh", "-ec", at(server, block)], folder, environment)


def at(server: RunningServer, block: str) -> str:
    """Return a block with the address of the server in place of the default one."""
    text: str = BLOCKS[block]
    text = text.replace("127.0.0.1:8001", server.address)
    return text.replace("127.0.0.1:8002", server.http_address)


def without_numbers(text: str) -> list[str]:
    """Return the words of a text without those that differ from run to run: numbers and bars."""
    blank = re.sub(r"127\.0\.0\.1:\d+|-?\d+(\.\d+(e-\d+)?|e-\d+)", "#", text)
    return re.sub(r"#+", "#", blank).split()


def check_readme(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the check of the generated parts in the checkout or in a copy of it."""
    return subprocess.run(
        [sys.executable, root / "tools" / "readme.py", "--check"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip


def installed(path: Path) -> Path:
    """Return the path of a client's program; where CI is set, it must be there."""
    if not path.exists():
        _missing(f"{path.relative_to(ROOT)} is not there: run `make tools`")
    return path


def _example(language: str) -> str:
    text = (ROOT / "docs" / "configuration.md").read_text()
    (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return str(block)


def _run(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    run = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def _missing(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
