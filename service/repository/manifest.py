"""manifest.json: what the exporter promises of a version, and the server checks.

The file lies beside model.onnx and is written last: a version directory of the exporter without
one is not finished. Files are named relative to it; sha256 covers every other file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from service.errors import ManifestError
from service.tensors import BY_WIRE, TensorSpec

FORMAT: Final = 1  # raised when a reader of the old form would misunderstand the new one
GRAPH_LEVELS: Final = ("all", "extended", "basic", "disabled")
MANIFEST_FILE: Final = "manifest.json"
MODEL_FILE: Final = "model.onnx"
GOLDEN_FILE: Final = "golden.npz"
_MAX_BYTES: Final = 1 << 20  # a manifest is small; anything larger is not one
_CHUNK: Final = 1 << 20
_MAX_ROWS: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Parity:
    """The model in ONNX Runtime compared with its source at one batch size.

    max_abs: largest absolute difference. max_rel: that difference over the largest absolute
    value of the reference, per output, the worst of them.
    """

    batch: int
    output: str
    max_abs: float
    max_rel: float


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a comparison with the source allows.

    relative: over the largest absolute value of the reference; absolute: floor for outputs
    near zero.
    """

    relative: float = 1e-4
    absolute: float = 1e-6


@dataclass(frozen=True, slots=True)
class Axis:
    """A free axis: the sizes that it may have, and those that were compared with the source.

    tensors: the axis by input that has it. high: 0 if nothing is known of a largest size.
    """

    name: str
    tensors: Mapping[str, int]
    low: int
    high: int
    proved: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """How ONNX Runtime should optimise the graph when it loads it.

    graph_level: "all", "extended", "basic" or "disabled".
    disabled_optimizers: names of graph transformers that make this model slower.
    """

    graph_level: str = "all"
    disabled_optimizers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for a level that is none."""
        if self.graph_level not in GRAPH_LEVELS:
            raise ValueError(f"graph_level is {self.graph_level!r}, expected one of {GRAPH_LEVELS}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of manifest.json; docs/manifest.schema.json is its published form.

    inputs, outputs: as TensorSpec; the batch dimension is -1 if it was proved dynamic.
    max_batch_size: the largest batch that was proved, 0 if the model does not batch.
    files: sha256 in hexadecimal by file name.
    golden: name of the file with golden pairs ("" if there is none): arrays "INDEX.in.NAME" and
    "INDEX.out.NAME".
    producer: versions of what made it, by name.

    What follows is absent from manifests of older exporters, and means nothing special then.
    axes: the free ones, the batch included. state: output by the input that takes it next time.
    labels: file with one name a line, by output that they belong to. variant: which form of the
    model this is. gate: what it was measured by if it is not the first form. session,
    batch_buckets (rows), warmup_batches (rows): what the exporter recommends; () means nothing.
    """

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    opset: int
    files: Mapping[str, str]
    golden: str = ""
    tolerance: Tolerance = Tolerance()
    parity: tuple[Parity, ...] = ()
    producer: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    axes: tuple[Axis, ...] = ()
    state: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    variant: str = "source"
    gate: Mapping[str, Any] = field(default_factory=dict)
    session: SessionOptions = SessionOptions()
    batch_buckets: tuple[int, ...] = ()
    warmup_batches: tuple[int, ...] = ()

    def to_json(self) -> str:
        """Return the text of manifest.json: sorted, indented, byte-reproducible."""
        content = {
            "format": FORMAT,
            "name": self.name,
            "version": self.version,
            "inputs": [_spec_to_json(spec) for spec in self.inputs],
            "outputs": [_spec_to_json(spec) for spec in self.outputs],
            "max_batch_size": self.max_batch_size,
            "opset": self.opset,
            "files": dict(self.files),
            "golden": self.golden,
            "tolerance": asdict(self.tolerance),
            "parity": [asdict(entry) for entry in self.parity],
            "producer": dict(self.producer),
            "source": dict(self.source),
            "axes": [asdict(axis) for axis in self.axes],
            "state": dict(self.state),
            "labels": dict(self.labels),
            "variant": self.variant,
            "gate": dict(self.gate),
            "session": asdict(self.session),
            "batch_buckets": list(self.batch_buckets),
            "warmup_batches": list(self.warmup_batches),
        }
        return json.dumps(content, indent=2, sort_keys=True) + "\n"


def read_manifest(directory: Path) -> Manifest | None:
    """Return the manifest in a version directory, None if it has none.

    Raises ManifestError if it cannot be read or is not one.
    """
    path = directory / MANIFEST_FILE
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > _MAX_BYTES:
        raise ManifestError(f"{path}: larger than {_MAX_BYTES} bytes")
    try:
        return parse_manifest(text)
    except (
        ArithmeticError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ManifestError(f"{path}: not a manifest: {error!r}") from error


def parse_manifest(text: bytes) -> Manifest:
    """Return the manifest that text holds.

    Raises ValueError, KeyError, TypeError or AttributeError where it is not of the form.
    """
    content = json.loads(text)
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r}, expected {FORMAT}")
    return Manifest(
        name=str(content["name"]),
        version=int(content["version"]),
        inputs=tuple(_spec_from_json(entry) for entry in content["inputs"]),
        outputs=tuple(_spec_from_json(entry) for entry in content["outputs"]),
        max_batch_size=int(content["max_batch_size"]),
        opset=int(content["opset"]),
        files={str(name): str(digest) for name, digest in content["files"].items()},
        golden=str(content["golden"]),
        tolerance=Tolerance(**content["tolerance"]),
        parity=tuple(Parity(**entry) for entry in content["parity"]),
        producer={str(k): str(v) for k, v in content["producer"].items()},
        source={str(k): str(v) for k, v in content["source"].items()},
        axes=tuple(_axis_from_json(entry) for entry in content.get("axes", ())),
        state={str(k): str(v) for k, v in content.get("state", {}).items()},
        labels={str(k): str(v) for k, v in content.get("labels", {}).items()},
        variant=str(content.get("variant", "source")),
        gate=dict(content.get("gate", {})),
        session=_session_from_json(content.get("session", {})),
        batch_buckets=_sizes_from_json(content.get("batch_buckets", ())),
        warmup_batches=_sizes_from_json(content.get("warmup_batches", ())),
    )


def check_files(directory: Path, manifest: Manifest, model_file: str = MODEL_FILE) -> None:
    """Compare every file that the manifest lists with its digest.

    model_file: must be among them.
    Raises ManifestError for a name that is not a plain file name, a missing or a changed file.
    """
    for name, expected in manifest.files.items():
        if not name or "/" in name or "\\" in name or name in (".", ".."):
            raise ManifestError(f"{directory}: the manifest lists '{name}', not a file name")
        path = directory / name
        try:
            actual = sha256_of(path)
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
        if actual != expected:
            raise ManifestError(
                f"{path}: checksum mismatch: the manifest says {expected[:12]}..., "
                f"the file has {actual[:12]}...; it was changed after it was published",
            )
    if manifest.golden and manifest.golden not in manifest.files:
        raise ManifestError(f"{directory}: the manifest gives no digest for '{manifest.golden}'")
    if model_file not in manifest.files:
        raise ManifestError(f"{directory}: the manifest gives no digest for {model_file}")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype.wire, "shape": list(spec.shape)}


def _spec_from_json(entry: Mapping[str, Any]) -> TensorSpec:
    datatype = BY_WIRE[entry["datatype"]]
    return TensorSpec(str(entry["name"]), datatype, tuple(int(n) for n in entry["shape"]))


def _axis_from_json(entry: Mapping[str, Any]) -> Axis:
    return Axis(
        name=str(entry["name"]),
        tensors={str(name): int(axis) for name, axis in entry["tensors"].items()},
        low=int(entry["low"]),
        high=int(entry["high"]),
        proved=tuple(int(size) for size in entry["proved"]),
    )


def _session_from_json(entry: Mapping[str, Any]) -> SessionOptions:
    return SessionOptions(
        str(entry.get("graph_level", "all")),
        tuple(str(name) for name in entry.get("disabled_optimizers", ())),
    )


def _sizes_from_json(entries: Sequence[Any]) -> tuple[int, ...]:
    """Return numbers of rows. Raises ValueError for what no batch can have."""
    sizes = tuple(sorted({int(entry) for entry in entries}))
    if sizes and not 1 <= sizes[0] <= sizes[-1] <= _MAX_ROWS:
        raise ValueError(f"sizes of batches {list(sizes)}, expected 1 to {_MAX_ROWS}")
    return sizes
