"""What the exporter recommends and signs, as the server takes it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.app.loader import ModelLoader, warmup_sizes
from service.app.placement import Placement
from service.config import Settings
from service.errors import ConfigError, ManifestError, SettingsError
from service.pb.model_config_pb2 import ModelConfig
from service.repository.layout import Repository, VersionSource
from service.repository.manifest import Manifest, SessionOptions
from service.repository.signature import ModelSpec
from service.runtime.cpus import Cpus
from service.runtime.session import Session
from service.tensors import FP32, Signature, TensorSpec
from tests.support import models
from tests.support.sequences import accumulator, accumulator_config
from tests.support.signed import publish_signed, write_keys

MANIFEST = Manifest(
    name="m",
    version=1,
    inputs=(TensorSpec("X", FP32, (-1, 784)),),
    outputs=(TensorSpec("Y", FP32, (-1, 10)),),
    max_batch_size=16,
    opset=21,
    files={},
)


def _load(root: Path, key: Path | None) -> None:
    settings = Settings(str(root), device="cpu", require_signature=str(key) if key else "")
    (model,) = Repository(root).scan()
    ModelLoader(settings, Cpus(1)).load(model.versions[-1], None).close(timeout=5.0)


def test_a_signed_version_is_served(tmp_path: Path) -> None:
    """With the key that signed it, a version loads."""
    private, public = write_keys(tmp_path)
    publish_signed(tmp_path / "models", private, models.mlp(), MANIFEST)
    _load(tmp_path / "models", public)


def test_an_unsigned_version_stays_out(tmp_path: Path) -> None:
    """What has no signature is not loaded, and the reason says what to do."""
    _, public = write_keys(tmp_path)
    publish_signed(tmp_path / "models", None, models.mlp(), MANIFEST)
    with pytest.raises(ManifestError, match=r"has no model\.sig.*penstock-export sign"):
        _load(tmp_path / "models", public)
    _load(tmp_path / "models", None)


def test_a_plain_repository_stays_out(tmp_path: Path) -> None:
    """A version that no exporter made has no signature either."""
    _, public = write_keys(tmp_path)
    models.publish(tmp_path / "models", "m", models.mlp())
    with pytest.raises(ManifestError, match=r"has no model\.sig"):
        _load(tmp_path / "models", public)


def test_a_single_file_stays_out(tmp_path: Path) -> None:
    """A file without a version directory cannot be signed."""
    _, public = write_keys(tmp_path)
    file = models.publish(tmp_path / "models", "m", models.mlp())
    loader_ = ModelLoader(Settings(str(file), require_signature=str(public)), Cpus(1))
    with pytest.raises(ManifestError, match="a single file has no signature"):
        loader_.load(VersionSource("m", 1, file.parent, file), None)


def test_a_key_that_is_none_stops_the_start(tmp_path: Path) -> None:
    """A server that was told to demand signatures does not start without being able to."""
    with pytest.raises(SettingsError, match=r"none\.pub: cannot be read"):
        ModelLoader(Settings(str(tmp_path), require_signature=str(tmp_path / "none.pub")))


@pytest.mark.parametrize(
    ("options", "level", "expected"),
    [
        (SessionOptions(), 0, (0, ())),
        (SessionOptions("extended", ("SkipLayerNormFusion",)), 0, (2, ("SkipLayerNormFusion",))),
        (SessionOptions("basic"), 0, (1, ())),
        (SessionOptions("disabled"), 0, (-1, ())),
        (SessionOptions("basic"), -1, (-1, ())),  # config.pbtxt wins
    ],
)
def test_the_session_is_made_as_recommended(
    tmp_path: Path, options: SessionOptions, level: int, expected: tuple[int, tuple[str, ...]]
) -> None:
    """Graph level and disabled optimizers of the manifest reach the session."""
    config = ModelConfig()
    config.optimization.graph.level = level
    placement = Placement(Settings(str(tmp_path), device="cpu"), Cpus(1))
    made = placement.session_config(placement.threads("m", config), config, options)
    assert (made.graph_level, made.disabled_optimizers) == expected


def test_a_disabled_optimizer_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime is told which graph transformers to leave out when it loads the version."""
    seen: list[Mapping[str, Any]] = []

    def record(path: Path, config: Any) -> Any:
        seen.append({"off": config.disabled_optimizers})
        return Session(path, config)

    monkeypatch.setattr("service.app.loader.Session", record)
    manifest = replace(MANIFEST, session=SessionOptions("all", ("MatMulAddFusion",)))
    publish_signed(tmp_path, None, models.mlp(), manifest)
    _load(tmp_path, None)
    assert seen == [{"off": ("MatMulAddFusion",)}]


@pytest.mark.parametrize(
    ("largest", "manifest", "sizes"),
    [
        (0, None, (1,)),
        (8, None, (1, 8)),
        (16, replace(MANIFEST, warmup_batches=(1, 16), batch_buckets=(1, 4, 16)), (1, 4, 16)),
        (8, replace(MANIFEST, batch_buckets=(1, 4, 16)), (1, 4, 8)),
    ],
)
def test_warm_up_sizes(largest: int, manifest: Manifest | None, sizes: tuple[int, ...]) -> None:
    """One row, the largest batch, and what the exporter recommends below it."""
    spec = ModelSpec(Signature((), (), bool(largest)), largest, is_proved=True)
    assert warmup_sizes(spec, manifest) == sizes


def _loaded(root: Path) -> None:
    """Load the one model of a repository with its configuration."""
    (model,) = Repository(root).scan()
    loader = ModelLoader(Settings(str(root), device="cpu"), Cpus(1))
    loader.load(model.versions[-1], loader.read_config(model)).close(timeout=5.0)


def test_labels_that_cannot_be_read_keep_a_version_out(tmp_path: Path) -> None:
    """The reason names the file and the output; with the file the version loads."""
    config = 'output { name: "Y" data_type: TYPE_FP32 dims: [ -1, 10 ] label_filename: "l.txt" }'
    models.publish(tmp_path, "m", models.mlp(), config=config)
    with pytest.raises(ConfigError, match=r"l\.txt: labels of output 'Y': cannot be read"):
        _loaded(tmp_path)
    (tmp_path / "m" / "l.txt").write_text("zero\n")
    _loaded(tmp_path)


@pytest.mark.parametrize(
    "dims", ["1 optional: true", "[ 1, 1 ] reshape { shape: 1 }"], ids=["optional", "reshape"]
)
def test_states_with_other_forms_of_tensors_are_refused(tmp_path: Path, dims: str) -> None:
    """Neither reshape nor optional inputs of a model with states are ignored without a word."""
    config = accumulator_config("m").replace("dims: 1 }", f"dims: {dims} }}", 1)
    models.publish(tmp_path, "m", accumulator(), config=config)
    with pytest.raises(ConfigError, match=r"with states are not served|cannot do without"):
        _loaded(tmp_path)
