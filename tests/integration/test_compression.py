"""Compression and processing through the whole export, to a version that the server reads."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from examples.digits.data import Digits, load
from examples.digits.model import build_model
from examples.digits.train import Settings, Training, fit, save
from exporter import export, qat
from exporter.cli import main
from exporter.distill import distill
from exporter.errors import ChildCrashed
from exporter.gate import Gate
from exporter.processing import Processing
from exporter.prune import prune
from service.inference.backend import Interrupt
from service.repository.manifest import check_files, read_manifest
from service.runtime.session import Session, SessionConfig
from service.runtime.warmup import replay_golden
from service.tensors import Tensors
from tests.unit.exporter.graphs import linear

_ROOT = Path(__file__).parents[2]
_POINT = 0.01
_ANY_SPEED = Gate(min_speedup=0.0)  # what is timed on a busy machine must not decide a test


@pytest.fixture(autouse=True)
def _own_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run where `examples` is importable, and keep the import path as it is."""
    monkeypatch.chdir(_ROOT)
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="module")
def digits() -> Digits:
    """Load the handwritten digits."""
    return load()


@pytest.fixture(scope="module")
def trained(digits: Digits) -> Training:
    """Train the example for a few epochs."""
    return fit(digits, Settings(max_epochs=8))


def _served(path: Path) -> Session:
    """Load a version as the server does, its golden pairs included."""
    manifest = read_manifest(path)
    assert manifest is not None
    check_files(path, manifest)
    level = {"all": 0, "extended": 2, "basic": 1, "disabled": -1}[manifest.session.graph_level]
    session = Session(
        path / "model.onnx",
        SessionConfig(graph_level=level, disabled_optimizers=manifest.session.disabled_optimizers),
    )
    assert replay_golden(session, path, manifest) >= 2
    return session


def _run(session: Session, inputs: Tensors) -> Tensors:
    return session.run(inputs, [tensor.name for tensor in session.outputs], Interrupt())


def _accuracy(session: Session, digits: Digits) -> float:
    scores = _run(session, {"image": digits.test_images})["logits"]
    return float((scores.argmax(axis=1) == digits.test_labels).mean())


def test_an_int8_version_is_as_accurate_and_four_times_smaller(
    trained: Training, digits: Digits, tmp_path: Path
) -> None:
    """Within half a point on the held-out digits, as the server loads and replays it."""
    kind = "int8-static"
    result = export(
        trained.model, digits.train_images[:2], name="digits", repository=tmp_path, quantize=kind,
        calibration={"image": digits.train_images[:256]}, gate=_ANY_SPEED,
    )  # fmt: skip
    assert (result.chosen, result.manifest.variant) == (kind, kind)
    assert _accuracy(_served(result.path), digits) >= trained.test_accuracy - _POINT / 2
    assert (result.path / "model.onnx").stat().st_size < 0.3 * 4 * 101_770
    report = json.loads((result.path / "report.json").read_text())
    assert report["compression"]["chosen"] == kind
    assert report["compression"]["trials"][-1]["agreement_judged"] is True
    assert {"relative_error", "agreement", "coupling"} <= set(result.manifest.gate)


def _command(weights: Path, repository: Path, *more: str) -> list[str]:
    return ["examples.digits.model:build_model", "--weights", str(weights), "--name", "digits",
            "--repository", str(repository), "--json", "--quiet", *more]  # fmt: skip


@pytest.fixture
def weights(trained: Training, tmp_path: Path) -> Path:
    """Save the trained weights."""
    return save(trained, tmp_path / "trained")[0]


@pytest.fixture
def metric(digits: Digits, tmp_path: Path) -> Path:
    """Write a metric of a user's."""
    np.savez(tmp_path / "test.npz", images=digits.test_images, labels=digits.test_labels)
    (tmp_path / "metric.py").write_text(
        "import numpy as np\nfrom pathlib import Path\n"
        "data = np.load(Path(__file__).with_name('test.npz'))\n"
        "def accuracy(predict):\n"
        "    scores = predict(data['images'])['logits']\n"
        "    return float((scores.argmax(axis=1) == data['labels']).mean())\n"
    )
    return tmp_path / "metric.py"


def test_the_command_quantises_by_the_users_metric(
    weights: Path, metric: Path, trained: Training, digits: Digits, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """--quantize, --calibration, --evaluate and --gate, and a report with the metric of both."""
    np.savez(tmp_path / "c.npz", image=digits.train_images[:128])
    code = main(_command(
        weights, tmp_path / "models", "--quantize", "int8-dynamic", "--calibration",
        str(tmp_path / "c.npz"), "--evaluate", f"{metric}:accuracy", "--gate", "speedup=0 drop=1%",
    ))  # fmt: skip
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["compression"]["metric"] == pytest.approx(trained.test_accuracy, abs=1e-9)
    assert report["compression"]["trials"][0]["metric"] >= trained.test_accuracy - _POINT
    assert report["variant"] == "int8-dynamic"


_METRIC = """
import numpy as np
def broken(predict):
    return predict(np.ones((3, 16), np.float32))["scores"]
"""


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--quantize", "int8-dynamic", "--gate", "error=0%"], 6, "is not published: its outputs"),
        (["--quantize", "w4", "--gate", "speedup=0"], 6, "it changed nothing"),
        (["--quantize", "int8-static"], 2, "needs calibration data"),
        (["--quantize", "int8-static", "--calibration", "WRONG"], 2, "expected [-1,16]"),
        (["--quantize", "auto", "--evaluate", "METRIC:broken"], 2, "raised KeyError: 'scores'"),
        (["--quantize", "auto", "--evaluate", "METRIC:gone"], 2, "has no 'gone'"),
        (["--gate", "speed=2"], 2, "'speed=2' is no condition"),
        (["--gate", "speedup=2"], 2, "--gate is for variants, and none is to be made"),
        (["--resize", "8x8"], 2, "only images"),
        (["--top-k", "11"], 2, "top-k is 11, but 'y' has 4"),
        (["--softmax", "--sigmoid"], 2, "exclude each other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_publishes_nothing(
    more: Sequence[str], code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each with its exit code and a message that names what was given and what was expected."""
    np.savez(tmp_path / "wrong.npz", x=np.ones((32, 15), np.float32))
    (tmp_path / "broken_metric.py").write_text(_METRIC)
    words = [
        word.replace("WRONG", str(tmp_path / "wrong.npz")).replace(
            "METRIC", str(tmp_path / "broken_metric.py")
        )
        for word in more
    ]
    command = [str(linear(tmp_path / "m.onnx")), "--name", "m", "--repository",
               str(tmp_path / "models"), "--quiet", *words]  # fmt: skip
    assert main(command) == code
    assert says in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_processing_is_served_and_labelled(
    trained: Training, digits: Digits, tmp_path: Path
) -> None:
    """Bytes in, the three best classes out, equal to what numpy makes of the module's scores."""
    result = export(
        trained.model, digits.train_images[:2], name="digits", repository=tmp_path,
        processing=Processing(uint8=True, softmax=True, top_k=3), labels=list("0123456789"),
    )  # fmt: skip
    session = _served(result.path)
    assert [(t.name, t.datatype.wire) for t in session.inputs] == [("image", "UINT8")]
    images = (digits.test_images * 255).round().astype(np.uint8)
    got = _run(session, {"image": images})
    with torch.no_grad():
        scores = trained.model(torch.from_numpy(images.astype(np.float32) / 255))["logits"]
    want = torch.softmax(scores, dim=1).topk(3)
    np.testing.assert_allclose(got["logits_scores"], want.values.numpy(), atol=1e-5)
    assert (got["logits_indices"] == want.indices.numpy()).mean() > 0.999
    assert result.manifest.labels == {"logits_indices": "labels.txt"}
    assert result.manifest.source["module"].endswith("Mlp")


def test_a_compressed_version_can_be_processed_too(
    trained: Training, digits: Digits, tmp_path: Path
) -> None:
    """The int8 file is composed in the same way, and its golden pairs are its own."""
    result = export(
        trained.model, digits.train_images[:2], name="digits", repository=tmp_path,
        quantize="int8-static", calibration={"image": digits.train_images[:256]}, gate=_ANY_SPEED,
        processing=Processing(uint8=True, top_k=1),
    )  # fmt: skip
    session = _served(result.path)
    images = (digits.test_images * 255).round().astype(np.uint8)
    best = _run(session, {"image": images})["logits_indices"][:, 0]
    assert (best == digits.test_labels).mean() >= trained.test_accuracy - _POINT / 2


def test_half_precision_of_a_pre_norm_encoder_never_takes_the_caller_along(tmp_path: Path) -> None:
    """ONNX Runtime crashes on it with its defaults: it is served with others, or refused."""
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True)
    module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    try:
        result = export(module, torch.rand(2, 5, 32), name="m", repository=tmp_path,
                        quantize="fp16", device="cuda")  # fmt: skip
    except ChildCrashed as error:
        assert "crashed (SIGSEGV)" in str(error)  # noqa: PT017 (either end is right)
        assert not (tmp_path / "m").exists()
    else:
        session = _served(result.path)
        got = _run(session, {"src": np.ones((3, 5, 32), np.float32)})
        assert np.isfinite(got["output"]).all()
        nodes = onnx.load(str(result.path / "model.onnx")).graph.node
        assert "Cast" in {node.op_type for node in nodes}


def test_quantisation_aware_training_exports_int8(digits: Digits, tmp_path: Path) -> None:
    """QDQ that ONNX Runtime loads, within half a point of the module that was fine-tuned."""
    images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)

    def train(module: nn.Module, epochs: int = 1) -> None:
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        for _ in range(epochs):
            for image, label in zip(images.split(64), labels.split(64), strict=True):
                loss = nn.functional.cross_entropy(module(image)["logits"], label)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def accuracy(module: nn.Module) -> float:
        with torch.no_grad():
            best = module(image=torch.from_numpy(digits.test_images))["logits"].argmax(dim=1)
        return float((best.numpy() == digits.test_labels).mean())

    torch.manual_seed(0)
    module = build_model()
    train(module, epochs=4)
    quantised = qat.train_quantised(module, images[:2], train=train, evaluate=accuracy)
    before, after = quantised.metric
    assert before is not None
    assert after is not None
    assert after >= before - _POINT / 2
    assert quantised.quantised_layers == 2
    result = export(quantised.module, images[:2], name="digits", repository=tmp_path,
                    tolerance=qat.TOLERANCE)  # fmt: skip
    assert _accuracy(_served(result.path), digits) >= after - _POINT / 2
    operators = {node.op_type for node in onnx.load(str(result.path / "model.onnx")).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert (result.path / "model.onnx").stat().st_size < 0.3 * 4 * 101_770


def test_half_of_the_hidden_units_can_go(trained: Training, digits: Digits, tmp_path: Path) -> None:
    """After fine-tuning at most one point is lost, and the smaller model exports as any other."""
    images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)

    def finetune(module: nn.Module) -> None:
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
        for _ in range(3):
            for image, label in zip(images.split(32), labels.split(32), strict=True):
                loss = nn.functional.cross_entropy(module(image)["logits"], label)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    pruned = prune(trained.model, images[:2], share=0.5, finetune=finetune)
    result = export(pruned.module, images[:2], name="digits", repository=tmp_path)
    assert _accuracy(_served(result.path), digits) >= trained.test_accuracy - _POINT
    assert (result.path / "model.onnx").stat().st_size < 0.55 * 4 * 101_770


def test_a_student_learns_and_both_are_reported(trained: Training, digits: Digits) -> None:
    """A network of a tenth comes near to its teacher, and the report compares them."""
    images, labels = torch.from_numpy(digits.train_images), torch.from_numpy(digits.train_labels)
    batches: list[Any] = list(zip(images.split(32), labels.split(32), strict=True))

    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.scores = nn.Linear(784, 12), nn.Linear(12, 10)

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.scores(torch.relu(self.hidden(image)))}

    def accuracy(module: nn.Module) -> float:
        with torch.no_grad():
            best = module(torch.from_numpy(digits.test_images))["logits"].argmax(dim=1)
        return float((best.numpy() == digits.test_labels).mean())

    torch.manual_seed(0)
    report = distill(Student(), trained.model, batches, epochs=5, evaluate=accuracy).report
    assert report.teacher_metric == pytest.approx(trained.test_accuracy)
    assert report.student_after is not None
    assert report.student_after >= 0.8
    assert report.parameters[1] < 0.1 * report.parameters[0]


def test_the_verbs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`quantize` writes one variant and says what changed; `bench` times both."""
    source, made = linear(tmp_path / "m.onnx"), tmp_path / "q.onnx"
    assert main(["quantize", str(source), str(made), "--kind", "int8-dynamic", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["path"], report["changed_operators"]["MatMulInteger"]) == (str(made), 2)
    assert main(["bench", str(source), str(made), "--seconds", "0.1", "--json"]) == 0
    timings = json.loads(capsys.readouterr().out)["timings"]
    assert [(t["entry"], t["rows"]) for t in timings] == [(0, 1), (1, 1), (0, 8), (1, 8)]
