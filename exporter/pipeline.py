"""The export, from module to published version: the one module that knows every step.

load -> convert -> strip -> check -> verify -> variants -> bench -> gate -> publish
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from exporter.cases import Case
from exporter.check import check_file
from exporter.children import run_child
from exporter.errors import UsageError
from exporter.golden import choose_pairs, write_golden
from exporter.inputs import DynamicAxes, Ranges
from exporter.progress import Progress, Steps
from exporter.publish import publish, staging
from exporter.sources import convert
from exporter.sources.base import Request
from exporter.specs import InputSpec
from exporter.verify import prove
from service import __version__
from service.repository.manifest import GOLDEN_FILE, Manifest, Parity, Tolerance

DEFAULT_OPSET: Final = 20  # what ONNX Runtime, its quantisers and torch have all long known
OPSETS: Final = range(18, 27)  # below, torch writes another one; above, the runtime lags behind
MAX_BATCH: Final = 4096  # rows; the proof runs the module at the largest batch
_TRIAL: Final = (
    "loading the model in ONNX Runtime, as a server would (FP16 models are known to crash it: "
    "export in FP32, with .float()),"
)
_PACKAGES: Final = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A published version. path: its directory in the repository. seconds: of each step."""

    path: Path
    manifest: Manifest
    seconds: Mapping[str, float]

    @property
    def version(self) -> int:
        """Return the number of the version."""
        return self.manifest.version

    @property
    def parity(self) -> tuple[Parity, ...]:
        """Return how far ONNX Runtime is from PyTorch, for each batch size and output."""
        return self.manifest.parity


def export(  # noqa: PLR0913 (each argument is a decision of the user's, and has a default)
    model: Any,
    example_inputs: Any = None,
    *,
    name: str,
    repository: str | Path,
    weights: str | Path | None = None,
    specs: Sequence[InputSpec] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    batch: bool = True,
    dynamic_axes: DynamicAxes | None = None,
    ranges: Ranges | None = None,
    max_batch_size: int = 64,
    tolerance: Tolerance | None = None,
    opset: int = DEFAULT_OPSET,
    version: int | None = None,
    seed: int = 0,
    source: str = "",
    trust_pickle: bool = False,
    allow_globals: Sequence[str] = (),
    progress: Progress | None = None,
) -> ExportResult:
    """Convert a model to ONNX, prove that it computes the same, and publish it as a version.

    model: of a framework, or SOURCE as text or path, see docs/exporter.md. A module is
    exported in eval mode and left as it was; what text names is loaded in a child process.
    example_inputs: one tensor, several in the order of forward's arguments, or by name. Their
    first rows are part of the proof; random data in their range is added. None: the source's own.
    weights: .safetensors or a state dict for the module. specs: `--input`, parsed.
    name: of the model. repository: directory, made if it is missing.
    input_names: default: forward's arguments. output_names: default: the keys of the returned
    dict, "output" for a single tensor, else output_0, output_1 and so on.
    batch: axis 0 of every input and output is the batch, of any size. False: a fixed shape.
    dynamic_axes: axes besides the batch that may have any size: {"tokens": {1: "length"}}.
    ranges: lowest and highest random value by input; default: those of the example.
    max_batch_size: the largest batch that is proved and that the server will run.
    tolerance: default 1e-4 of the largest value of each output; 5e-3 if one is FP16.
    version: default: one above the highest. A version that exists is never changed.
    source: where the model came from, for the manifest. Default: SOURCE, or the model's class.
    trust_pickle, allow_globals: may files be loaded that can run code, or hold these names?
    progress: is called with a line of text before each step.

    Raises UsageError, UnsafeArtefact, WeightsError, ConversionFailed, VerificationFailed (with a
    table of what differs), ChildCrashed or PublishFailed. Then nothing was published.
    """
    _check_numbers(max_batch_size, opset, version)
    request = Request(
        source=model,
        name=name,
        label=source,
        opset=opset,
        batch=batch,
        max_batch_size=max_batch_size,
        seed=seed,
        weights=None if weights is None else Path(weights),
        specs=tuple(specs),
        examples=example_inputs,
        ranges=dict(ranges or {}),
        dynamic_axes=dict(dynamic_axes or {}),
        input_names=None if input_names is None else tuple(input_names),
        output_names=None if output_names is None else tuple(output_names),
        trust_pickle=trust_pickle,
        allow_globals=tuple(allow_globals),
    )
    steps = Steps(progress)
    with staging(Path(repository), name) as stage:
        with steps.step("convert"):
            converted = convert(request, stage.files, progress=steps.say)
        with steps.step("check", "checking the file"):
            check_file(converted.model)
            run_child("exporter.session:try_loading", [converted.model], what=_TRIAL)
        line = f"proving that ONNX Runtime computes the same at {_sizes(converted.cases)}"
        with steps.step("verify", line):
            proven = prove(converted, converted.model, tolerance)
        with steps.step("publish", "publishing"):
            write_golden(stage.files / GOLDEN_FILE, choose_pairs(converted.cases))
            manifest = Manifest(
                name=name,
                version=0,
                inputs=proven.inputs,
                outputs=proven.outputs,
                max_batch_size=max_batch_size if batch else 0,
                opset=converted.opset,
                files={},
                golden=GOLDEN_FILE,
                tolerance=proven.tolerance,
                parity=proven.agreement.parity,
                producer=_producer(),
                source=dict(converted.provenance),
                axes=proven.axes,
            )
            path, manifest = publish(stage, manifest, version)
    return ExportResult(path, manifest, steps.seconds)


def _check_numbers(max_batch_size: int, opset: int, version: int | None) -> None:
    if not 1 <= max_batch_size <= MAX_BATCH:
        raise UsageError(f"max_batch_size is {max_batch_size}; expected 1 to {MAX_BATCH}")
    if opset not in OPSETS:
        raise UsageError(
            f"opset is {opset}; expected {OPSETS[0]} to {OPSETS[-1]} ({DEFAULT_OPSET} is read by "
            "every runtime of the last years)",
        )
    if version is not None and not 1 <= version < 10**18:
        raise UsageError(f"version is {version}; expected a number from 1")


def _sizes(cases: Sequence[Case]) -> str:
    batches = sorted({case.rows for case in cases})
    return "batch " + ", ".join(map(str, batches)) if batches[0] else "its fixed shape"


def _producer() -> dict[str, str]:
    versions = {package: metadata.version(package) for package in _PACKAGES}
    return {**versions, "penstock": __version__, "python": platform.python_version()}
