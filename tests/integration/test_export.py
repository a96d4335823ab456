"""The whole export, through PyTorch, ONNX and ONNX Runtime, to a version that the server reads."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from examples.digits.data import Digits, load
from examples.digits.train import Settings, Training, fit, save
from exporter import (
    ChildCrashed,
    ConversionFailed,
    ExportError,
    UsageError,
    VerificationFailed,
    convert_file,
    export,
    verify_file,
)
from exporter.cli import main
from service.errors import LoadError
from service.inference.backend import Interrupt
from service.repository.layout import Repository
from service.repository.manifest import Axis, Tolerance, check_files, read_manifest
from service.repository.signature import Graph, resolve
from service.runtime.session import Session, SessionConfig
from service.runtime.warmup import replay_golden
from service.tensors import BOOL, FP32, INT64
from tests.support import sequences
from tests.support.signed import write_keys
from tests.support.waiting import eventually
from tests.unit.exporter.modules import (
    Branching,
    Classifier,
    Counting,
    Coupled,
    Deciding,
    Looping,
    Masked,
    Noisy,
    PassThrough,
    Recurrent,
    Shrinking,
    TwoHeads,
)

_ROOT = Path(__file__).parents[2]
_DIGITS = "examples.digits.model:build_model"


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where `examples` is importable, and keep the import path as it is."""
    monkeypatch.chdir(_ROOT)
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


def test_training_converges_before_its_cap(trained: Training) -> None:
    """It stops because the loss stands still, after at least ten epochs, above 0.95."""
    assert trained.converged
    assert 10 <= len(trained.history) < Settings().max_epochs
    assert trained.test_accuracy >= 0.95


def test_training_that_does_not_converge_says_so(digits: Digits) -> None:
    """At the cap of epochs the loop ends, and the result does not pretend."""
    training = fit(digits, Settings(max_epochs=2))
    assert not training.converged
    assert len(training.history) == 2


def test_training_is_deterministic(digits: Digits) -> None:
    """Equal settings give equal weights, bit for bit."""
    settings = Settings(max_epochs=1)
    first, second = (fit(digits, settings).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_held_out_digits_are_stratified(digits: Digits) -> None:
    """Every class has its share of the test set, and no image is in both sets."""
    train, test = np.bincount(digits.train_labels), np.bincount(digits.test_labels)
    assert np.all(np.abs(test / (train + test) - 0.25) < 0.02)
    assert (digits.train_images.min(), digits.train_images.max()) == (0.0, 1.0)
    assert digits.test_images.shape == (450, 784)


def test_a_version_is_what_the_server_reads(tmp_path: Path) -> None:
    """Layout, manifest, digests, signature and golden pairs hold in the server's own code."""
    result = export(Classifier(), torch.rand(1, 6), name="m", repository=tmp_path)
    (model,) = Repository(tmp_path).scan()
    (version,) = model.versions
    manifest = read_manifest(version.directory)
    assert manifest == result.manifest
    assert version.directory == result.path
    assert manifest is not None
    check_files(version.directory, manifest)
    session = Session(version.model_file(), SessionConfig())
    spec = resolve(Graph(session.inputs, session.outputs), None, manifest)
    assert (spec.signature.batched, spec.max_batch_size, spec.is_proved) == (True, 64, True)
    assert [(s.name, s.datatype, s.shape) for s in manifest.inputs] == [("image", FP32, (-1, 6))]
    assert [(s.name, s.shape) for s in manifest.outputs] == [("logits", (-1, 3))]
    assert replay_golden(session, version.directory, manifest) == 4


def test_the_server_computes_what_the_module_computes(tmp_path: Path) -> None:
    """At a batch size that was never tried, the answers are the module's."""
    module = Classifier()
    result = export(module, torch.rand(1, 6), name="m", repository=tmp_path)
    session = Session(result.path / "model.onnx", SessionConfig())
    images = torch.rand(37, 6)
    got = session.run({"image": images.numpy()}, ["logits"], Interrupt())["logits"]
    with torch.no_grad():
        want = module(images)["logits"].numpy()
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_a_changed_golden_pair_keeps_a_version_out(tmp_path: Path) -> None:
    """The golden pairs are worth something: against other weights they fail."""
    first = export(Classifier(seed=1), torch.rand(1, 6), name="m", repository=tmp_path)
    other = export(Classifier(seed=2), torch.rand(1, 6), name="m", repository=tmp_path)
    session = Session(other.path / "model.onnx", SessionConfig())
    with pytest.raises(LoadError, match="golden pair 0"):
        replay_golden(session, first.path, first.manifest)


def test_the_manifest_says_how_far_and_by_what(tmp_path: Path) -> None:
    """Parity at batch 1, 2, 3 and the largest, within the tolerance; the versions of the makers."""
    manifest = export(
        Classifier(), torch.rand(1, 6), name="m", repository=tmp_path, max_batch_size=16
    ).manifest
    assert [(p.batch, p.output) for p in manifest.parity] == [
        (batch, "logits") for batch in (1, 2, 3, 16)
    ]
    assert all(p.max_rel <= manifest.tolerance.relative for p in manifest.parity)
    assert {"penstock", "torch", "onnx", "onnxscript", "onnxruntime", "python"} <= set(
        manifest.producer
    )
    assert manifest.source["module"].endswith("modules:Classifier")
    assert re.fullmatch("[0-9a-f]{64}", manifest.source["weights_sha256"])


def test_the_second_export_is_version_two_and_equal_modules_give_equal_bytes(
    tmp_path: Path,
) -> None:
    """Model and golden pairs depend on module and weights alone; the number counts up."""
    results = [
        export(Classifier(), torch.ones(1, 6), name="m", repository=tmp_path) for _ in range(2)
    ]
    assert [result.version for result in results] == [1, 2]
    assert results[0].manifest.files == results[1].manifest.files


def test_nothing_of_this_machine_is_in_the_files(tmp_path: Path) -> None:
    """No path, no source line, no scope of the capture is left in what is published."""
    result = export(Recurrent(), torch.rand(1, 4, 3), name="m", repository=tmp_path)
    for file in result.path.iterdir():
        content = file.read_bytes()
        for trace in (b".py", b"/home", b"/tmp", b"site-packages", b"stack_trace",
                      b"pkg.torch", str(_ROOT).encode(), b"self.lstm"):  # fmt: skip
            assert trace not in content, (file.name, trace)


def test_the_model_says_what_made_it(tmp_path: Path) -> None:
    """Producer, source and graph name are stamped on the file itself."""
    result = export(Classifier(), torch.rand(1, 6), name="m", repository=tmp_path, source="a:b")
    model = onnx.load(str(result.path / "model.onnx"))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert (model.producer_name, model.graph.name) == ("penstock", "m")
    assert properties["penstock.module"] == "a:b"
    assert properties["penstock.weights_sha256"] == result.manifest.source["weights_sha256"]


def test_an_example_of_one_row_leaves_the_batch_free(tmp_path: Path) -> None:
    """A batch of one in the example is not taken for a fixed extent."""
    result = export(Classifier(), torch.rand(1, 6), name="m", repository=tmp_path)
    graph = onnx.load(str(result.path / "model.onnx")).graph
    for tensor in (*graph.input, *graph.output):
        assert tensor.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_outputs_of_several_types_are_named_by_their_keys(tmp_path: Path) -> None:
    """Nested outputs get readable names and their own types."""
    examples = {"left": torch.rand(2, 3), "right": torch.rand(2, 3)}
    manifest = export(TwoHeads(), examples, name="m", repository=tmp_path).manifest
    assert [s.name for s in manifest.inputs] == ["left", "right"]
    assert [(s.name, s.datatype, s.shape) for s in manifest.outputs] == [
        ("total", FP32, (-1, 3)), ("extra_0", BOOL, (-1, 3)), ("extra_1", INT64, (-1,)),
    ]  # fmt: skip


def test_an_input_that_is_passed_through_keeps_its_name(tmp_path: Path) -> None:
    """Returning an input does not rename it."""
    manifest = export(PassThrough(), torch.rand(1, 2), name="m", repository=tmp_path).manifest
    assert [s.name for s in manifest.inputs] == ["x"]
    assert [s.name for s in manifest.outputs] == ["same", "double"]


def test_names_can_be_given(tmp_path: Path) -> None:
    """Given names replace those of forward."""
    manifest = export(
        Classifier(), torch.rand(1, 6), name="m", repository=tmp_path,
        input_names=["pixels"], output_names=["scores"],
    ).manifest  # fmt: skip
    assert ([s.name for s in manifest.inputs], [s.name for s in manifest.outputs]) == (
        ["pixels"], ["scores"],
    )  # fmt: skip


def test_a_free_length_is_free(tmp_path: Path) -> None:
    """Two inputs share a length that is free, and the output has it too."""
    tokens, mask = torch.randint(0, 10, (1, 5)), torch.rand(1, 5) > 0.3
    axes = {"tokens": {1: "length"}, "mask": {1: "length"}}
    result = export(Masked(), (tokens, mask), name="m", repository=tmp_path, dynamic_axes=axes)
    assert [s.shape for s in result.manifest.outputs] == [(-1, -1, 4)]
    session = Session(result.path / "model.onnx", SessionConfig())
    feeds = {"tokens": np.zeros((2, 9), np.int64), "mask": np.ones((2, 9), np.bool_)}
    assert session.run(feeds, ["output"], Interrupt())["output"].shape == (2, 9, 4)


def test_a_recurrent_network_with_a_strided_example(tmp_path: Path) -> None:
    """An LSTM converts from a transposed example, and any length goes."""
    example = torch.rand(4, 2, 3).transpose(0, 1)
    manifest = export(
        Recurrent(), example, name="m", repository=tmp_path,
        dynamic_axes={"sequence": {1: "length"}},
    ).manifest  # fmt: skip
    assert [s.shape for s in manifest.outputs] == [(-1, -1, 4)]


def test_a_model_without_a_batch_has_its_fixed_shape(tmp_path: Path) -> None:
    """batch=False publishes what has no batch axis, and the manifest says so."""
    manifest = export(
        Shrinking(), torch.rand(5, 2), name="m", repository=tmp_path, batch=False
    ).manifest
    assert manifest.max_batch_size == 0
    assert [s.shape for s in (*manifest.inputs, *manifest.outputs)] == [(5, 2), (2,)]


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    """Training goes on after an export: mode, weights and gradients are the module's own."""
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    module(torch.rand(5, 3)).sum().backward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export(module, torch.rand(1, 3), name="m", repository=tmp_path)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(weight.grad is not None for weight in module.parameters())


def test_half_precision_has_a_tolerance_of_its_own(tmp_path: Path) -> None:
    """FP16 is proved within 5e-3, not within what only FP32 can reach."""
    module, example = nn.Linear(64, 8).half(), torch.rand(1, 64).half()
    manifest = export(module, example, name="m", repository=tmp_path).manifest
    assert manifest.tolerance == Tolerance(relative=5e-3, absolute=1e-4)


@pytest.mark.parametrize(
    ("module", "error", "says"),
    [
        (Noisy(), VerificationFailed, r"batch +output +max abs +max rel +allowed +first at"),
        (Branching(), VerificationFailed, r"\n +64 +output"),
        (Coupled(), VerificationFailed, r"not independent.*\n +\d of \d"),
        (Looping(), ConversionFailed, r"fixes axis 0 \(batch\).*modules\.py:\d+: return torch\.st"),
        (Deciding(), ConversionFailed, r"value of a tensor.*modules\.py:\d+: if x\.sum\(\)"),
        (Shrinking(), ConversionFailed, r"no batch axis \(batch 1: \[4\].*--no-batch"),
        (Counting(), ConversionFailed, r"buffer\(s\) \['calls'\]"),
        (nn.Linear(9, 2), ConversionFailed, r"fails with the example inputs: RuntimeError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_served_is_refused_and_leaves_nothing(
    module: nn.Module, error: type[ExportError], says: str, tmp_path: Path
) -> None:
    """Each fault is told by its own cause, and nothing is published."""
    torch.manual_seed(0)
    with pytest.raises(error, match="(?s)" + says):
        export(module, torch.rand(2, 4), name="m", repository=tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_crashes_the_runtime_is_refused(tmp_path: Path) -> None:
    """A load that ends the process ends that of a child, and is told as a failed conversion."""
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).half()
    said = "published"  # by an ONNX Runtime that has mended it
    try:
        export(module, torch.rand(2, 5, 32).half(), name="m", repository=tmp_path)
    except ChildCrashed as error:
        said = str(error)
    assert said == "published" or "crashed (SIGSEGV)" in said
    assert (tmp_path / "m").exists() is (said == "published")


def test_a_tolerance_of_nothing_is_not_met(tmp_path: Path) -> None:
    """The gate compares for real: sums in another order differ in the last bit."""
    module, example = nn.Sequential(nn.Linear(512, 512), nn.Softmax(1)), torch.rand(1, 512)
    with pytest.raises(VerificationFailed, match=r"64 +output"):
        export(module, example, name="m", repository=tmp_path, tolerance=Tolerance(0.0, 0.0))


def _digits(weights: Path, repository: Path, *more: str) -> list[str]:
    return [_DIGITS, "--weights", str(weights), "--name", "digits", "--repository",
            str(repository), *more]  # fmt: skip


def test_the_command_exports_the_example(
    weights: Path, trained: Training, digits: Digits, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """penstock-export publishes what was trained, and says where, how close and what next."""
    assert main(_digits(weights, tmp_path / "models", "--json")) == 0
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
    assert main(_digits(weights, tmp_path / "models", "--quiet")) == 0
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
    assert main(_digits(tmp_path / "whole.pt", tmp_path / "models")) == 3
    assert "safetensors.torch.save_model" in capsys.readouterr().err


def test_weights_that_do_not_fit_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights of another module give a table and exit code 1."""
    save_file(Classifier().state_dict(), tmp_path / "other.safetensors")
    assert main(_digits(tmp_path / "other.safetensors", tmp_path / "models")) == 1
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


def test_two_commands_at_the_same_time_give_two_versions(weights: Path, tmp_path: Path) -> None:
    """Neither overwrites the other or fails because of it, and both give the same bytes."""
    command = [sys.executable, "-m", "exporter", *_digits(weights, tmp_path / "models", "--quiet")]
    processes = [subprocess.Popen(command, cwd=_ROOT) for _ in range(2)]
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
        f'source = "{_DIGITS}"\nweights = "{weights}"\nname = "digits"\n'
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


def test_samples_of_two_sizes_free_an_axis(tmp_path: Path) -> None:
    """Nobody named the length: it differs between the samples, and is proved at more sizes."""
    samples = [
        {"tokens": np.ones((2, n), np.int64), "mask": np.ones((2, n), np.bool_)} for n in (5, 8)
    ]
    manifest = export(Masked(), name="m", repository=tmp_path, samples=samples).manifest
    assert [s.shape for s in manifest.inputs] == [(-1, -1), (-1, -1)]
    (length,) = [axis for axis in manifest.axes if axis.name != "batch"]
    assert length.tensors == {"tokens": 1, "mask": 1}
    assert len(length.proved) >= 3


def test_an_axis_has_the_sizes_that_were_said(tmp_path: Path) -> None:
    """Both ends of a range are proved, and stand in the manifest."""
    manifest = export(
        Masked(), name="m", repository=tmp_path, max_batch_size=4, limits={"length": (3, 9)},
        inputs=["tokens:int64[batch,length]=0..9", "mask:bool[batch,length]"],
    ).manifest  # fmt: skip
    (length,) = [axis for axis in manifest.axes if axis.name == "length"]
    assert (length.low, length.high) == (3, 9)
    assert {3, 9} <= set(length.proved) <= {3, 4, 5, 6, 7, 8, 9}


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
    with subprocess.Popen(command, cwd=_ROOT) as process:
        eventually((tmp_path / "in forward").exists, "forward to be called")
        assert (tmp_path / "models" / "m").is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 130
    assert not (tmp_path / "models").exists()


def test_weights_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model above the limit of protobuf has its weights beside it, digested, and is served."""
    monkeypatch.setattr("exporter.sources.INLINE_BYTES", 100)
    module = nn.Linear(64, 32)
    result = export(module, torch.rand(1, 64), name="m", repository=tmp_path)
    assert "model.onnx.data" in result.manifest.files
    assert (result.path / "model.onnx.data").stat().st_size >= 64 * 32 * 4
    check_files(result.path, result.manifest)
    session = Session(result.path / "model.onnx", SessionConfig())
    assert replay_golden(session, result.path, result.manifest) == 4
    with pytest.raises(UsageError, match=r"call it .*model\.onnx"):
        convert_file(module, tmp_path / "other.onnx", example_inputs=torch.rand(1, 64))
    report = convert_file(module, tmp_path / "model.onnx", example_inputs=torch.rand(1, 64))
    assert (tmp_path / "model.onnx.data").exists()
    assert report.manifest.parity
    proven = verify_file(module, tmp_path / "model.onnx", example_inputs=torch.rand(1, 64))
    assert proven.agreement.parity
    with pytest.raises(VerificationFailed):
        verify_file(nn.Linear(64, 32), tmp_path / "model.onnx", example_inputs=torch.rand(1, 64))


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


def test_threads_of_one_process_get_versions_of_their_own(tmp_path: Path) -> None:
    """Live modules exported at the same time neither disturb each other nor lose a version."""
    modules = [Classifier(seed=seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        results = list(
            pool.map(
                lambda module: export(module, torch.rand(1, 6), name="m", repository=tmp_path),
                modules,
            ),
        )
    assert sorted(result.version for result in results) == [1, 2, 3]
    for module, result in zip(modules, results, strict=True):
        session = Session(result.path / "model.onnx", SessionConfig())
        images = torch.rand(5, 6)
        got = session.run({"image": images.numpy()}, ["logits"], Interrupt())["logits"]
        with torch.no_grad():
            np.testing.assert_allclose(got, module(images)["logits"].numpy(), atol=1e-5)
