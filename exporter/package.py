"""The package: what lies in a version beside the model, and the manifest that speaks of it.

model.onnx [model.onnx.data]   golden.npz   labels.txt   report.json   report.md   manifest.json
Everything but measured times depends on the source and the packages alone, byte for byte.
"""

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from exporter.cases import Case
from exporter.errors import PublishFailed, UsageError
from exporter.flow import Proven
from exporter.golden import choose_pairs, write_golden
from exporter.publish import Stage
from service import __version__
from service.errors import LoadError, dims
from service.repository.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Manifest,
    SessionOptions,
    Tolerance,
)
from service.repository.model_config import read_config
from service.repository.signature import resolve
from service.tensors import TensorSpec

LABELS_FILE: Final = "labels.txt"
SOURCE_VARIANT: Final = "source"
_PACKAGES: Final = ("onnx", "onnx-ir", "onnxruntime")
_DEFAULT_TOLERANCE: Final = Tolerance()
_DEFAULT_SESSION: Final = SessionOptions()


@dataclass(frozen=True, slots=True)
class Contents:
    """What becomes a version. proven: the file that is published, proved or gated.

    cases: of the golden pairs; their outputs are those that the file itself must give.
    tolerance: of the golden pairs. labels: of the classes, of output labels_of. state: output by
    the input that takes it next. gate: what was measured of a variant, without times.
    """

    name: str
    proven: Proven
    cases: Sequence[Case]
    opset: int
    max_batch_size: int
    provenance: Mapping[str, str]
    packages: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    labels_of: str = ""
    state: Mapping[str, str] = field(default_factory=dict)
    variant: str = SOURCE_VARIANT
    tolerance: Tolerance = _DEFAULT_TOLERANCE
    gate: Mapping[str, Any] = field(default_factory=dict)
    session: SessionOptions = _DEFAULT_SESSION
    batch_buckets: tuple[int, ...] = ()


def write_contents(stage: Stage, contents: Contents) -> Manifest:
    """Move the model into the stage, write what goes with it, and return the manifest.

    The manifest lacks the number of the version and the digests, which publishing adds.
    Raises PublishFailed if the file system refuses, or if a config.pbtxt that lies in the
    repository contradicts the version.
    """
    try:
        move_model(contents.proven.model, stage.files)
        write_golden(stage.files / GOLDEN_FILE, choose_pairs(contents.cases))
        if contents.labels:
            text = "".join(f"{label}\n" for label in contents.labels)
            (stage.files / LABELS_FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise PublishFailed(f"{stage.model}: cannot be written: {error.strerror}") from error
    manifest = manifest_of(contents)
    _check_config(stage.model, contents.proven, manifest)
    return manifest


def move_model(model: Path, directory: Path) -> Path:
    """Move a model, with the file of its weights if it has one, and return where it is now.

    The name of the file of weights stands in the model: it is kept.
    """
    data = model.with_name(f"{model.name}.data")
    if data.exists():
        shutil.move(data, directory / data.name)
    return Path(shutil.move(model, directory / MODEL_FILE))


def find_labelled(labels: Sequence[str], outputs: Sequence[TensorSpec], *, asked: bool) -> str:
    """Return the output whose last axis has one extent for each label; "" if none was asked for.

    asked: the user gave the labels, so that there must be such an output: else UsageError.
    """
    if not labels:
        return ""
    for label in labels:
        if not label.strip() or "\n" in label or "\r" in label:
            raise UsageError(f"label {label!r}: expected one line of text")
    fitting = [spec.name for spec in outputs if spec.shape and spec.shape[-1] == len(labels)]
    if fitting or not asked:
        return fitting[0] if fitting else ""
    shapes = ", ".join(f"{spec.name} {dims(spec.shape)}" for spec in outputs)
    raise UsageError(
        f"{len(labels)} labels, but no output has as many classes in its last axis: {shapes}",
    )


def write_file(model: Path, target: Path) -> None:
    """Copy a model to a place of the user's own. Raises UsageError, PublishFailed."""
    data = model.with_name(f"{model.name}.data")
    if data.exists() and target.name != model.name:
        raise UsageError(
            f"{target}: the weights are above 2 GB and lie in {data.name}, which the model names: "
            f"call it {target.with_name(model.name)}",
        )
    beside = target.with_name(data.name)
    if data.exists() and beside.exists():
        raise UsageError(f"{beside} exists, and is not overwritten")
    part = target.with_name(f".{target.name}.part")
    try:
        if data.exists():
            shutil.copyfile(data, beside)
        shutil.copyfile(model, part)
        os.link(part, target)  # unlike a rename, it takes nothing's place
    except OSError as error:
        raise PublishFailed(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def manifest_of(contents: Contents) -> Manifest:
    """Return the manifest, without the number of the version and without digests."""
    proven = contents.proven
    return Manifest(
        name=contents.name,
        version=0,
        inputs=proven.inputs,
        outputs=proven.outputs,
        max_batch_size=contents.max_batch_size,
        opset=contents.opset,
        files={},
        golden=GOLDEN_FILE,
        tolerance=contents.tolerance,
        parity=proven.agreement.parity,
        producer=_producer(contents.packages),
        source=dict(contents.provenance),
        axes=proven.axes,
        state=dict(contents.state),
        labels={contents.labels_of: LABELS_FILE} if contents.labels else {},
        variant=contents.variant,
        gate=dict(contents.gate),
        session=contents.session,
        batch_buckets=contents.batch_buckets,
        warmup_batches=warmup_batches(contents.max_batch_size, contents.batch_buckets),
    )


def warmup_batches(max_batch_size: int, buckets: Sequence[int]) -> tuple[int, ...]:
    """Return the rows of the batches to run before a version serves."""
    return tuple(sorted({1, max_batch_size, *buckets})) if max_batch_size else ()


def _check_config(model: Path, proven: Proven, manifest: Manifest) -> None:
    """Ask the server's own rules: a config.pbtxt of an earlier version may not fit this one."""
    try:
        resolve(proven.graph, read_config(model), manifest)
    except LoadError as error:
        raise PublishFailed(
            f"a server would refuse this version: {error}; change or remove "
            f"{model / 'config.pbtxt'}, or publish under another name",
        ) from error


def _producer(packages: Mapping[str, str]) -> dict[str, str]:
    """Return the versions of everything that made the version."""
    own = {package: metadata.version(package) for package in _PACKAGES}
    return {**own, **packages, "penstock": __version__, "python": platform.python_version()}
