"""manifest.json: written and read back, and every way in which it can be wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from service.errors import ManifestError
from service.repository.manifest import (
    Axis,
    Manifest,
    Parity,
    SessionOptions,
    Tolerance,
    check_files,
    read_manifest,
    sha256_of,
)
from service.tensors import BF16, BYTES, FP32, TensorSpec

COMPLETE = Manifest(
    name="digits",
    version=3,
    inputs=(TensorSpec("pixels", FP32, (-1, 784)), TensorSpec("name", BYTES, (-1,))),
    outputs=(TensorSpec("scores", BF16, (-1, 10)),),
    max_batch_size=64,
    opset=21,
    files={"model.onnx": "ab" * 32},
    golden="golden.npz",
    tolerance=Tolerance(1e-3, 1e-5),
    parity=(Parity(1, "scores", 1e-6, 1e-7),),
    producer={"torch": "2.13.0"},
    source={"module": "x"},
    axes=(Axis("batch", {"pixels": 0, "name": 0}, 1, 64, (1, 2, 64)),),
    state={"pixels": "scores"},
    labels={"scores": "labels.txt"},
    variant="int8-static",
    gate={"agreement": 0.995},
    session=SessionOptions("extended", ("SkipLayerNormFusion",)),
    batch_buckets=(1, 8, 64),
    warmup_batches=(1, 64),
)
NEWER = {
    "axes", "state", "labels", "variant", "gate", "session", "batch_buckets", "warmup_batches",
}  # fmt: skip


def write(directory: Path, content: Any) -> None:
    """Write manifest.json: text as it is, anything else as JSON."""
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / "manifest.json").write_text(text)


def test_manifest_comes_back(tmp_path: Path) -> None:
    """What is written is read again, whole."""
    write(tmp_path, COMPLETE.to_json())
    assert read_manifest(tmp_path) == COMPLETE


def test_text_is_reproducible() -> None:
    """The same manifest is the same text, sorted, whatever order it was made in."""
    assert COMPLETE.to_json() == COMPLETE.to_json()
    assert list(json.loads(COMPLETE.to_json())) == sorted(json.loads(COMPLETE.to_json()))


def test_no_manifest_is_no_error(tmp_path: Path) -> None:
    """A version without a manifest is one of a plain repository."""
    assert read_manifest(tmp_path) is None


def test_a_manifest_of_an_older_exporter_is_read(tmp_path: Path) -> None:
    """What older exporters did not write is absent, and then recommends nothing."""
    content = {k: v for k, v in json.loads(COMPLETE.to_json()).items() if k not in NEWER}
    write(tmp_path, content)
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest.name, manifest.variant, manifest.session) == (
        "digits", "source", SessionOptions(),
    )  # fmt: skip
    assert (manifest.axes, manifest.batch_buckets, manifest.warmup_batches) == ((), (), ())


@pytest.mark.parametrize("key", sorted(set(json.loads(COMPLETE.to_json())) - NEWER))
def test_every_key_is_needed(tmp_path: Path, key: str) -> None:
    """A manifest that lacks a key is none, and the error names file and key."""
    content = json.loads(COMPLETE.to_json())
    del content[key]
    write(tmp_path, content)
    with pytest.raises(ManifestError, match=rf"manifest\.json: not a manifest: .*{key}"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": None},
        {"version": "three"},
        {"inputs": 7},
        {"inputs": [{"name": "x"}]},
        {"inputs": [{"name": "x", "datatype": "FP33", "shape": []}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": ["n"]}]},
        {"files": ["model.onnx"]},
        {"tolerance": {"other": 1}},
        {"parity": [{"batch": 1}]},
        {"session": {"graph_level": "most"}},
        {"batch_buckets": [0, 8]},
        {"warmup_batches": ["many"]},
        {"axes": [{"name": "batch"}]},
    ],
    ids=str,
)
def test_wrong_values_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """A value of the wrong kind makes the file no manifest."""
    write(tmp_path, {**json.loads(COMPLETE.to_json()), **change})
    with pytest.raises(ManifestError, match="not a manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "\x00", "[" * 100_000, '{"format": 1e999}'], ids=range(7)
)
def test_other_texts_are_refused(tmp_path: Path, text: str) -> None:
    """What is no JSON object, or nested without end, is no manifest."""
    write(tmp_path, text)
    with pytest.raises(ManifestError, match="not a manifest"):
        read_manifest(tmp_path)


def test_endless_file_is_refused(tmp_path: Path) -> None:
    """A file larger than any manifest is not read."""
    write(tmp_path, " " * ((1 << 20) + 1))
    with pytest.raises(ManifestError, match="larger than 1048576 bytes"):
        read_manifest(tmp_path)


def listing(files: dict[str, str]) -> Manifest:
    """Return a manifest that lists files."""
    return Manifest("m", 1, (), (), 0, 21, files)


def test_files_with_their_digests_pass(tmp_path: Path) -> None:
    """Files that have not changed are accepted."""
    for name in ("model.onnx", "weights"):
        (tmp_path / name).write_bytes(name.encode() * 100_000)
    check_files(tmp_path, listing({n: sha256_of(tmp_path / n) for n in ("model.onnx", "weights")}))


def test_changed_file_is_named(tmp_path: Path) -> None:
    """One changed byte is a checksum mismatch that names the file."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"x" * 1000)
    manifest = listing({"model.onnx": sha256_of(path)})
    path.write_bytes(b"x" * 999 + b"y")
    with pytest.raises(ManifestError, match=r"model\.onnx: checksum mismatch: the manifest says"):
        check_files(tmp_path, manifest)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A listed file that is not there is an error that names it."""
    with pytest.raises(ManifestError, match=r"weights: cannot be read: No such file"):
        check_files(tmp_path, listing({"weights": "0" * 64}))


@pytest.mark.parametrize("name", ["../m", "/etc/passwd", "a/b", "..", ".", "", "a\\b"])
def test_only_plain_file_names_are_listed(tmp_path: Path, name: str) -> None:
    """A name that is a path is refused before anything is opened."""
    with pytest.raises(ManifestError, match="not a file name"):
        check_files(tmp_path, listing({name: "0" * 64}))


def test_model_itself_must_be_listed(tmp_path: Path) -> None:
    """A manifest without a digest of model.onnx vouches for nothing."""
    (tmp_path / "other").write_bytes(b"")
    manifest = listing({"other": sha256_of(tmp_path / "other")})
    with pytest.raises(ManifestError, match=r"gives no digest for model\.onnx"):
        check_files(tmp_path, manifest)
