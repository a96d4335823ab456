"""The package: labels, state and config.pbtxt, and what is refused before it is published."""

from dataclasses import replace
from pathlib import Path

import pytest

from exporter.errors import PublishFailed, UsageError
from exporter.model_config import can_say_batch, config_of
from exporter.package import find_labelled, write_contents
from exporter.publish import publish, staging
from service.repository.manifest import check_files
from service.repository.model_config import read_config
from service.repository.signature import resolve
from service.tensors import FP32, TensorSpec
from tests.support.versions import GRAPH, mlp_contents, publish_mlp

_Y = TensorSpec("Y", FP32, (-1, 10))
_LABELS = tuple("abcdefghij")


def test_a_version_has_everything(tmp_path: Path) -> None:
    """Model, golden pairs and labels lie in it, with their digests, and the sizes to warm up."""
    path, manifest = publish_mlp(tmp_path, labels=_LABELS, labels_of="Y", batch_buckets=(4,))
    assert sorted(manifest.files) == ["golden.npz", "labels.txt", "model.onnx"]
    check_files(path, manifest)
    assert (path / "labels.txt").read_text().split() == list(_LABELS)
    assert manifest.labels == {"Y": "labels.txt"}
    assert (manifest.warmup_batches, manifest.batch_buckets) == ((1, 4, 16), (4,))


def test_weights_of_their_own_move_along(tmp_path: Path) -> None:
    """A model above 2 GB has its weights in a second file, whose name stands in the first."""
    with staging(tmp_path, "m") as stage:
        contents = mlp_contents(stage.work / "model.onnx")
        (stage.work / "model.onnx.data").write_bytes(b"weights")
        manifest = write_contents(stage, contents)
        path, manifest = publish(stage, manifest, None)
    assert (path / "model.onnx.data").read_bytes() == b"weights"
    assert "model.onnx.data" in manifest.files


def test_the_server_reads_the_configuration(tmp_path: Path) -> None:
    """config.pbtxt has labels, batch and warm-ups; it resolves to what the manifest says."""
    _, manifest = publish_mlp(tmp_path, labels=_LABELS, labels_of="Y", write_config=True)
    config = read_config(tmp_path / "m")
    assert config is not None
    assert (config.max_batch_size, config.output[0].label_filename) == (16, "labels.txt")
    assert (tmp_path / "m" / "labels.txt").read_text().split() == list(_LABELS)
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 16]
    assert list(config.input[0].dims) == [784]
    assert resolve(GRAPH, config, manifest).max_batch_size == 16
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "m").iterdir() if p.is_file()}
    assert modes == {"config.pbtxt": 0o644, "labels.txt": 0o644}


def test_a_configuration_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """What the user wrote is not overwritten, and a second version needs none."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.pbtxt").write_text("max_batch_size: 8\n")
    publish_mlp(tmp_path, write_config=True)
    assert (tmp_path / "m" / "config.pbtxt").read_text() == "max_batch_size: 8\n"


def test_a_version_that_a_server_would_refuse_is_not_published(tmp_path: Path) -> None:
    """A config.pbtxt of an earlier version may name inputs that this one does not have."""
    (tmp_path / "m").mkdir()
    config = 'input { name: "other" data_type: TYPE_FP32 dims: [ 784 ] }'
    (tmp_path / "m" / "config.pbtxt").write_text(config)
    with pytest.raises(PublishFailed, match=r"would refuse.*input 'other' is not in the graph"):
        publish_mlp(tmp_path)
    assert [entry.name for entry in (tmp_path / "m").iterdir()] == ["config.pbtxt"]


def test_labels_find_their_output() -> None:
    """Labels belong to the output whose last axis has as many classes."""
    wide = TensorSpec("features", FP32, (-1, 64))
    assert find_labelled(_LABELS, (wide, _Y), asked=True) == "Y"
    assert find_labelled(_LABELS, (wide,), asked=False) == ""
    with pytest.raises(UsageError, match=r"10 labels, but no output.*features \[-1,64\]"):
        find_labelled(_LABELS, (wide,), asked=True)


@pytest.mark.parametrize("label", ["", "two\nlines", "  "])
def test_a_label_is_a_line(label: str) -> None:
    """Labels are written one a line: an empty one or one of two lines would shift the rest."""
    with pytest.raises(UsageError, match="expected one line"):
        find_labelled((label,), (TensorSpec("Y", FP32, (-1, 1)),), asked=True)


def test_configuration_says_no_batch_that_is_not_on_axis_0(tmp_path: Path) -> None:
    """For a state with its batch on axis 1 Triton's max_batch_size would be wrong."""
    _, manifest = publish_mlp(tmp_path)
    (batch,) = manifest.axes
    apart = replace(manifest, axes=(replace(batch, tensors={"X": 0, "h0": 1}),))
    assert (can_say_batch(manifest), can_say_batch(apart)) == (True, False)
    assert "max_batch_size: 16" in config_of(manifest)
    assert "max_batch_size" not in config_of(apart)
    assert "dims: -1" in config_of(apart)
