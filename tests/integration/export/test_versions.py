"""A version that was exported: what is in it, and that the server reads and computes the same."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporter import UsageError, VerificationFailed, convert_file, export, verify_file
from service.errors import LoadError
from service.inference.backend import Interrupt
from service.repository.layout import Repository
from service.repository.manifest import check_files, read_manifest
from service.repository.signature import Graph, resolve
from service.runtime.session import Session, SessionConfig
from service.runtime.warmup import replay_golden
from service.tensors import FP32
from tests.support.servers import ROOT
from tests.unit.exporter.modules import Classifier, Recurrent


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
                      b"pkg.torch", str(ROOT).encode(), b"self.lstm"):  # fmt: skip
            assert trace not in content, (file.name, trace)


def test_the_model_says_what_made_it(tmp_path: Path) -> None:
    """Producer, source and graph name are stamped on the file itself."""
    result = export(Classifier(), torch.rand(1, 6), name="m", repository=tmp_path, source="a:b")
    model = onnx.load(str(result.path / "model.onnx"))
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert (model.producer_name, model.graph.name) == ("penstock", "m")
    assert properties["penstock.module"] == "a:b"
    assert properties["penstock.weights_sha256"] == result.manifest.source["weights_sha256"]


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
