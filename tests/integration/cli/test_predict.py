"""`penstock predict` against a real server: each kind of input and answer, each error."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.commands import NOBODY, Run
from tests.support.servers import ROOT, RunningServer


def test_predict_shows_classes(penstock: Run, alone: RunningServer, rows: Path) -> None:
    """Without any flag the only model is asked, and each row shows its best class first."""
    ran = penstock("predict", rows, "--server", alone.address, "--top", "2")
    lines = ran.out.splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert lines[0].startswith(f"mlp at {alone.address}: ")
    assert lines[1] == "Y  FP32[3,10]"
    assert [line.split()[0] for line in lines[3::2]] == ["0", "1", "2"]


def test_predict_json_is_what_the_model_gives(
    penstock: Run, alone: RunningServer, rows: Path
) -> None:
    """JSON on standard output equals .npy in a file, unary and row by row on a stream."""
    out = rows.parent / "scores.npy"
    flags = (rows, "--server", alone.address)
    printed = json.loads(penstock("predict", *flags, "--format", "json").out)
    streamed = json.loads(penstock("predict", *flags, "--format", "json", "--stream").out)
    assert penstock("predict", *flags, "--format", "npy", "--out", out).code == 0
    scores = np.load(out, allow_pickle=False)
    assert scores.shape == (3, 10)
    for answer in (printed, streamed):
        (output,) = answer["outputs"]
        np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), scores, rtol=1e-5)


def test_predict_reads_a_picture(penstock: Run, alone: RunningServer, tmp_path: Path) -> None:
    """A picture of any size becomes the 784 pixels of the model."""
    path = tmp_path / "digit.png"
    Image.new("RGB", (100, 50), (10, 200, 30)).save(path)
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"class-{index}" for index in range(10)))
    ran = penstock("predict", path, "--server", alone.address, "--labels", labels, "--top", "1")
    assert ran.code == 0
    assert "class-" in ran.out.splitlines()[3]


def test_predict_reads_standard_input(server: RunningServer) -> None:
    """A dash reads JSON from a pipe; npy goes to a pipe."""
    command = ("predict", "-", "--server", server.address, "--model", "identity_fp32")
    run = subprocess.run(
        [sys.executable, "-m", "service", *command, "--format", "npy"],
        cwd=ROOT,
        input=b"[[1.5, 2.5]]",
        capture_output=True,
        check=True,
    )
    assert np.load(io.BytesIO(run.stdout), allow_pickle=False).tolist() == [[1.5, 2.5]]


def test_predict_with_two_inputs_and_one_output(
    penstock: Run, server: RunningServer, tmp_path: Path
) -> None:
    """Each input comes from its file and only the wanted output is shown."""
    for name, value in (("a", 5), ("b", 3)):
        np.save(tmp_path / name, np.full((1, 16), value))
    ran = penstock(
        "predict", "--server", server.address, "--model", "simple",
        "--input", f"INPUT0={tmp_path / 'a.npy'}", "--input", f"INPUT1={tmp_path / 'b.npy'}",
        "--output", "OUTPUT1", "--format", "json",
    )  # fmt: skip
    (output,) = json.loads(ran.out)["outputs"]
    assert (output["name"], output["datatype"], output["data"]) == ("OUTPUT1", "INT32", [2] * 16)


def test_predict_bytes(penstock: Run, server: RunningServer, tmp_path: Path) -> None:
    """Texts go to a model of BYTES and come back as texts."""
    path = tmp_path / "words.json"
    path.write_text('[["grün", "blau"]]')
    flags = ("--server", server.address, "--model", "identity_bytes")
    assert "'grün'" in penstock("predict", path, *flags).out
    answer = json.loads(penstock("predict", path, *flags, "--format", "json").out)
    assert answer["outputs"][0]["data"] == ["grün", "blau"]


def test_predict_one_version(penstock: Run, server: RunningServer, rows: Path) -> None:
    """A version that is not there is refused by the server, with what is."""
    flags = ("--server", server.address, "--model", "mlp", "--version")
    assert penstock("predict", rows, *flags, "1").code == 0
    ran = penstock("predict", rows, *flags, "7")
    assert ran.code == 1
    assert "version 7 is not found" in ran.err
    assert "ready are ['mlp 1']" in ran.err
    ran = penstock("predict", rows, "--server", server.address, "--model", "nope")
    assert "'coupled 1'" in ran.err


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["unary", "stream"])
def test_predict_reports_what_the_model_refuses(
    penstock: Run, server: RunningServer, tmp_path: Path, stream: tuple[str, ...]
) -> None:
    """A request that fails in the model ends with its error and exit code 1."""
    path = tmp_path / "index.json"
    path.write_text("[[0], [99]]")
    ran = penstock("predict", path, "--server", server.address, "--model", "gather", *stream)
    assert ran.code == 1
    assert "inference failed for model 'gather'" in ran.err
    assert ("row 1: " in ran.err) is bool(stream)


def test_predict_keeps_its_deadline(penstock: Run, server: RunningServer, tmp_path: Path) -> None:
    """A model that takes minutes ends the command at its deadline with exit code 1."""
    path = tmp_path / "steps.json"
    path.write_text("[[1000000]]")
    flags = ("--server", server.address, "--model", "slow", "--deadline", "0.2")
    ran = penstock("predict", path, *flags)
    assert (ran.code, "Deadline Exceeded" in ran.err) == (1, True)


def test_predict_without_a_server(penstock: Run, rows: Path) -> None:
    """Where nothing listens the text names the address and what to start."""
    ran = penstock("predict", rows, "--server", NOBODY)
    assert ran.code == 1
    assert f"no server answers at {NOBODY}" in ran.err
    assert "Does `penstock serve` run there?" in ran.err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--model", "mlp"), "no input: give INPUT"),
        (("rows.npy",), "--model is missing; the server has ['"),
        (("nothing.npy", "--model", "mlp"), "nothing.npy: No such file or directory"),
        (("rows.npy", "--model", "simple"), "asks for ['INPUT0','INPUT1']"),
        (("rows.npy", "--model", "scalar"), "has shape [3,784], but input 'X' takes []"),
        (("--input", "rows.npy", "--model", "mlp"), "--input rows.npy: expected NAME=FILE"),
        (("--input", "Z=rows.npy", "--model", "mlp"), "the model has the inputs ['X']"),
        (("rows.npy", "--model", "mlp", "--labels", "no.txt"), "--labels no.txt: cannot be read"),
        (("rows.npy", "--model", "mlp", "--out", "no/such"), "--out no/such: cannot be written"),
        (("rows.npy", "--model", "mlp", "--format", "xml"), "invalid choice: 'xml'"),
        (("rows.npy", "--model", "mlp", "--tls-key", "k"), "one is missing"),
        (("rows.npy", "--model", "mlp", "--tls-ca", "no.pem"), "--tls-ca no.pem: cannot be read"),
        (("rows.npy", "--model", "mlp", "--tls-name", "n"), "need --tls or --tls-ca"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_predict_wrong_usage(
    penstock: Run,
    server: RunningServer,
    rows: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    """What cannot be sent is refused here with exit code 2, and the text says what is wrong."""
    monkeypatch.chdir(rows.parent)
    ran = penstock("predict", *arguments, "--server", server.address)
    assert expected in ran.err
    assert (ran.code, ran.out) == (2, "")


def test_predict_refuses_two_outputs_in_one_npy(
    penstock: Run, server: RunningServer, tmp_path: Path
) -> None:
    """Two outputs do not fit into an .npy; into an .npz they do."""
    path = tmp_path / "both.npz"
    ones = np.ones((1, 16))
    np.savez(path, INPUT0=ones, INPUT1=ones)
    flags = ("predict", path, "--server", server.address, "--model", "simple", "--format", "npy")
    ran = penstock(*flags, "--out", tmp_path / "out.npy")
    assert (ran.code, "call the file .npz" in ran.err) == (2, True)
    assert penstock(*flags, "--out", tmp_path / "out.npz").code == 0
    with np.load(tmp_path / "out.npz", allow_pickle=False) as outputs:
        assert outputs.keys() == {"OUTPUT0", "OUTPUT1"}
