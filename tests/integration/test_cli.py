"""The commands beside `serve`, against a real server: what they print and how they exit."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.cli import main
from service.repository.manifest import (
    MODEL_FILE,
    Manifest,
    Parity,
    sha256_of,
)
from service.tensors import FP32, TensorSpec
from tests.support import models
from tests.support.certificates import Authority
from tests.support.servers import ROOT, RunningServer, serve

NOBODY = "127.0.0.1:1"


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


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


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three rows for the model mlp."""
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.random.default_rng(0).random((3, 784), np.float32))
    return path


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Serve one model and nothing else."""
    root = tmp_path_factory.mktemp("alone")
    models.publish(root, "mlp", models.mlp())
    with serve(root) as running:
        yield running


def broken_repository(root: Path) -> Path:
    """Write a repository with a good model of two versions and three that cannot be served."""
    models.publish(root, "good", models.mlp())
    models.publish(root, "good", models.mlp(), version=3)
    models.publish(root, "cut", models.mlp()[:3000])
    models.publish(root, "wrong", models.mlp(), config='\nmax_batch_size: "many"')
    (root / "empty").mkdir()
    return root


# predict


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


# inspect


def test_inspect_a_repository(penstock: Run, tmp_path: Path) -> None:
    """Every version is described, with its state and, if it failed, the reason."""
    ran = penstock("inspect", broken_repository(tmp_path), "--json")
    described = {(each["model"], each["version"]): each for each in json.loads(ran.out)}
    assert ran.code == 1
    assert {key: each["state"] for key, each in described.items()} == {
        ("cut", "1"): "FAILED",
        ("empty", ""): "FAILED",
        ("good", "1"): "NOT SERVED",
        ("good", "3"): "READY",
        ("wrong", ""): "FAILED",
    }
    assert "ONNX Runtime cannot load it" in described["cut", "1"]["reason"]
    assert "config.pbtxt:2" in described["wrong", ""]["reason"]
    assert "only the newest is served" in described["good", "1"]["reason"]
    assert described["good", "3"]["inputs"] == [
        {"name": "X", "datatype": "FP32", "shape": [-1, 784]}
    ]


def test_inspect_an_onnx_file(penstock: Run, tmp_path: Path) -> None:
    """A bare file is described by its graph, for people."""
    path = tmp_path / "classifier.onnx"
    path.write_bytes(models.mlp())
    ran = penstock("inspect", path)
    assert ran.code == 0
    assert ran.out.splitlines()[:3] == [
        "classifier 1  READY",
        "  inputs     X FP32[-1,784]",
        "  outputs    Y FP32[-1,10]",
    ]
    assert f"  size       {len(models.mlp()) / 1000:.1f} kB" in ran.out
    assert "  digests    none: no manifest.json" in ran.out


@pytest.mark.parametrize(
    ("model", "config", "expected"),
    [
        (models.mlp(), None, "up to 64 rows: axis 0 has one name in all tensors"),
        (models.mlp(), "max_batch_size: 4", "up to 4 rows: config.pbtxt says so"),
        (
            models.mlp(),
            'input { name: "X" data_type: TYPE_FP32 dims: [ -1, 784 ] }',
            "no: config.pbtxt says max_batch_size 0",
        ),
        (models.coupled(), None, "no: requests are not batched: rows of a batch could not be"),
        (models.fixed_batch(), None, "no: axis 0 of 'X' is fixed at 2"),
        (models.scalar(), None, "no: 'X' has no axis"),
    ],
    ids=["trial", "config", "config 0", "coupled", "fixed", "scalar"],
)
def test_inspect_says_why_a_model_batches_or_not(
    penstock: Run, tmp_path: Path, model: bytes, config: str | None, expected: str
) -> None:
    """The line on batching names who says so, or what is in the way."""
    models.publish(tmp_path, "m", model, config=config)
    assert f"  batching   {expected}" in penstock("inspect", tmp_path).out


def test_inspect_a_manifest(penstock: Run, tmp_path: Path) -> None:
    """Digests, parity and producer of an exported version are shown; a changed file fails it."""
    path = models.publish(tmp_path, "m", models.mlp())
    manifest = Manifest(
        name="m",
        version=1,
        inputs=(TensorSpec("X", FP32, (-1, 784)),),
        outputs=(TensorSpec("Y", FP32, (-1, 10)),),
        max_batch_size=16,
        opset=21,
        files={MODEL_FILE: sha256_of(path)},
        parity=(Parity(1, "Y", 1e-7, 2e-7), Parity(16, "Y", 3e-7, 4e-7)),
        producer={"torch": "2.13.0"},
    )
    (path.parent / "manifest.json").write_text(manifest.to_json())
    text = penstock("inspect", tmp_path / "m").out
    assert "up to 16 rows: proved by the exporter (manifest.json)" in text
    assert "  digests    ok (1 files)" in text
    assert "at batch 1, 16: worst difference 3e-07 absolute, 4e-07 relative ('Y')" in text
    assert "  made by    torch 2.13.0" in text
    path.write_bytes(models.mlp(seed=8))
    ran = penstock("inspect", tmp_path / "m")
    assert (ran.code, "checksum mismatch" in ran.out) == (1, True)


def test_inspect_a_queue_policy(penstock: Run, tmp_path: Path) -> None:
    """What config.pbtxt says of the queue is shown in text and JSON."""
    config = (
        "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 500 "
        "preferred_batch_size: [4, 8] priority_levels: 3 default_priority_level: 2 "
        "default_queue_policy { max_queue_size: 10 default_timeout_microseconds: 9 "
        "timeout_action: DELAY } }"
    )
    models.publish(tmp_path, "m", models.mlp(), config=config)
    assert (
        "  queue      delay 500 us; preferred batch 4, 8; at most 10 requests; "
        "timeout 9 us then DELAY; 3 priority levels\n"
    ) in penstock("inspect", tmp_path).out
    (described,) = json.loads(penstock("inspect", tmp_path, "--json").out)
    assert described["queue"]["default_queue_policy"]["timeout_action"] == "DELAY"


def test_inspect_a_running_server(penstock: Run, tmp_path: Path, rows: Path) -> None:
    """A running server tells signature, failed versions and the traffic that it has had."""
    with serve(broken_repository(tmp_path)) as running:
        assert penstock("predict", rows, "--server", running.address, "--model", "good").code == 0
        ran = penstock("inspect", "--live", running.address, "--json")
        text = penstock("inspect", "good", "--live", running.address).out
    described = {each["model"]: each for each in json.loads(ran.out)}
    assert ran.code == 1
    assert described["cut"]["state"] == "UNAVAILABLE"
    assert "ONNX Runtime cannot load it" in described["cut"]["reason"]
    assert described["good"]["statistics"]["requests"] == 1
    assert described["good"]["statistics"]["mean_batch_rows"] == 3
    assert text.startswith("good 3  READY\n  inputs     X FP32[-1,784]\n")
    assert "1 answered, 0 failed; mean batch 3.0 rows" in text
    assert "cut" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        ((), 2, "nothing to inspect"),
        (("no/such",), 1, "no/such: no such file or directory"),
        (("--live", NOBODY), 1, f"no server answers at {NOBODY}"),
    ],
)
def test_inspect_what_is_not_there(
    penstock: Run, arguments: tuple[str, ...], code: int, expected: str
) -> None:
    """A missing target is an error with its name and the code of its kind."""
    ran = penstock("inspect", *arguments)
    assert (ran.code, expected in ran.err) == (code, True)


def test_inspect_an_unknown_model_of_a_server(penstock: Run, server: RunningServer) -> None:
    """A model that the server lacks is wrong usage."""
    ran = penstock("inspect", "nope", "--live", server.address)
    assert (ran.code, "has no model 'nope'" in ran.err) == (2, True)


# check


def test_check_a_good_repository(penstock: Run, repository: Path) -> None:
    """Where all can be served each version has its line and the exit code is 0."""
    ran = penstock("check", repository)
    states = {line.split()[0]: line.split()[2] for line in ran.out.splitlines()[1:-1]}
    assert (ran.code, set(states.values())) == (0, {"OK"})
    assert states.keys() == {path.name for path in repository.iterdir()}


def test_check_a_broken_repository(penstock: Run, tmp_path: Path) -> None:
    """What cannot be served has its reason, the others are loaded, and the exit code is 1."""
    ran = penstock("check", broken_repository(tmp_path))
    by_model = {line.split()[0]: line for line in ran.out.splitlines()[1:]}
    assert ran.code == 1
    assert "OK" in by_model["good"]
    assert "ONNX Runtime cannot load it" in by_model["cut"]
    assert "config.pbtxt:2" in by_model["wrong"]
    assert "no version" in by_model["empty"]
    assert ran.out.splitlines()[-1] == "1 of 4 can be served"
    assert "ONNX Runtime" not in ran.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--port", "99999"), "--port is 99999, expected 0 to 65535"),
        (("--host", "192.0.2.1"), "which others can reach, and there is no TLS"),
        (("--tls-certificate", "no.pem", "--tls-key", "no.key"), "No such file or directory"),
        (("--config", "no.toml"), "no.toml"),
    ],
)
def test_check_wrong_settings(
    penstock: Run, tmp_path: Path, flags: tuple[str, ...], expected: str
) -> None:
    """A setting that the server would refuse is refused with exit code 2."""
    models.publish(tmp_path, "mlp", models.mlp())
    ran = penstock("check", tmp_path, *flags)
    assert (ran.code, expected in ran.err) == (2, True)


def test_check_certificates(penstock: Run, tmp_path: Path) -> None:
    """A certificate with its key passes; with the key of another it is a wrong setting."""
    models.publish(tmp_path / "models", "mlp", models.mlp())
    authority = Authority(tmp_path, "ca")
    one, other = authority.sign("one"), authority.sign("other")
    flags = ("check", tmp_path / "models", "--tls-certificate", one.certificate, "--tls-key")
    assert penstock(*flags, one.key).code == 0
    ran = penstock(*flags, other.key)
    assert (ran.code, "--tls-key" in ran.err) == (2, True)


# health


def test_health_of_server_and_model(penstock: Run, server: RunningServer) -> None:
    """A serving server and a serving model are SERVING with exit code 0."""
    assert penstock("health", server.address) == Ran(0, "SERVING\n", "")
    assert penstock("health", server.address, "--service", "mlp").code == 0


def test_health_of_what_does_not_serve(penstock: Run, server: RunningServer) -> None:
    """An unknown model and an address where nothing listens are exit code 1, with the reason."""
    ran = penstock("health", server.address, "--service", "nope")
    assert (ran.code, "NOT_FOUND" in ran.err) == (1, True)
    ran = penstock("health", NOBODY)
    assert (ran.code, "UNAVAILABLE" in ran.err) == (1, True)


def test_health_of_a_server_with_a_failed_model(penstock: Run, tmp_path: Path) -> None:
    """A server that lacks one of its models is NOT_SERVING as a whole, its good model SERVING."""
    with serve(broken_repository(tmp_path)) as running:
        assert penstock("health", running.address) == Ran(1, "NOT_SERVING\n", "")
        assert penstock("health", running.address, "--service", "good").code == 0


def test_health_finds_the_server_by_the_environment(
    penstock: Run, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an address the port is that of the environment's settings, on loopback."""
    monkeypatch.setenv("PENSTOCK_PORT", server.address.rpartition(":")[2])
    monkeypatch.setenv("PENSTOCK_HOST", "0.0.0.0")  # noqa: S104 -- nothing is bound
    assert penstock("health").code == 0


def test_health_over_tls(penstock: Run, tmp_path: Path) -> None:
    """With the CA health is SERVING; without TLS, or under another name, it is not."""
    authority = Authority(tmp_path, "ca")
    pair = authority.sign("server")
    models.publish(tmp_path / "models", "mlp", models.mlp())
    flags = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key))
    trust = ("--tls-ca", authority.certificate)
    with serve(tmp_path / "models", *flags) as running:
        assert penstock("health", running.address, *trust).code == 0
        assert penstock("health", running.address, *trust, "--tls-name", "other.example").code == 1
        assert penstock("health", running.address).code == 1


def test_health_imports_little() -> None:
    """The health check starts without numpy and ONNX Runtime, which would make it slow."""
    program = (
        "import sys, service.cli; code = service.cli.main(['health', '127.0.0.1:1']); "
        "sys.exit(code if not {'numpy', 'onnxruntime'} & sys.modules.keys() else 9)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False
    )
    assert run.returncode == 1, run.stderr


# the command itself


def test_an_interrupted_command_says_nothing(
    penstock: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control-C ends a command with the exit code of SIGINT and no traceback."""

    def interrupted(_path: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "read_bytes", interrupted)
    ran = penstock("health", NOBODY, "--tls-ca", "ca.pem")
    assert ran == Ran(130, "", "")


def test_no_verb_prints_the_verbs(penstock: Run) -> None:
    """The bare command lists every verb; an unknown one is wrong usage."""
    ran = penstock()
    assert all(verb in ran.out for verb in ("serve", "predict", "inspect", "check", "health"))
    assert penstock("sevre").code == 2


@pytest.mark.parametrize("verb", ["serve", "predict", "inspect", "check", "health"])
def test_each_verb_has_help(penstock: Run, verb: str) -> None:
    """`penstock VERB --help` shows the usage of that verb."""
    ran = penstock(verb, "--help")
    assert (ran.code, ran.out.startswith(f"usage: penstock {verb} ")) == (0, True)
