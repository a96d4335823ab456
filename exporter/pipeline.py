"""The export, from module to published version: the one module that knows every step.

load -> convert -> strip -> check -> verify -> variants -> bench -> gate -> publish
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch

from exporter.cases import Case, make_cases
from exporter.check import check_file
from exporter.convert import convert
from exporter.errors import ConversionFailed, PublishFailed, UsageError
from exporter.evaluation import evaluating
from exporter.flow import Converted
from exporter.golden import choose_pairs, write_golden
from exporter.inputs import Examples, Inputs, bind_inputs, call
from exporter.outputs import name_outputs
from exporter.progress import Progress, Steps
from exporter.publish import publish, staging
from exporter.shapes import correct_outputs
from exporter.strip import strip
from exporter.translate import explain_failure
from exporter.trial import try_loading
from exporter.verify import prove
from exporter.weights import digest, refuse_nan
from service import __version__
from service.errors import listed
from service.repository.manifest import (
    GOLDEN_FILE,
    MODEL_FILE,
    Manifest,
    Parity,
    Tolerance,
)

DEFAULT_OPSET: Final = 20  # what ONNX Runtime, its quantisers and torch have all long known
OPSETS: Final = range(18, 27)  # below, torch writes another one; above, the runtime lags behind
MAX_BATCH: Final = 4096  # rows; the proof runs the module at the largest batch
_PACKAGES: Final = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")

DynamicAxes: TypeAlias = Mapping[str, Mapping[int, str]]
Ranges: TypeAlias = Mapping[str, tuple[float, float]]


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
    module: torch.nn.Module,
    example_inputs: Examples,
    *,
    name: str,
    repository: str | Path,
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
    progress: Progress | None = None,
) -> ExportResult:
    """Convert a module to ONNX, prove that it computes the same, and publish it as a version.

    module: is exported in eval mode and left as it was.
    example_inputs: one tensor, several in the order of forward's arguments, or by name. Their
    first rows are part of the proof; random data in their range is added.
    name: of the model. repository: directory, made if it is missing.
    input_names: default: forward's arguments. output_names: default: the keys of the returned
    dict, "output" for a single tensor, else output_0, output_1 and so on.
    batch: axis 0 of every input and output is the batch, of any size. False: a fixed shape.
    dynamic_axes: axes besides the batch that may have any size: {"tokens": {1: "length"}}.
    ranges: lowest and highest random value by input; default: those of the example.
    max_batch_size: the largest batch that is proved and that the server will run.
    tolerance: default 1e-4 of the largest value of each output; 5e-3 if one is FP16.
    version: default: one above the highest. A version that exists is never changed.
    source: where the module came from, for the manifest. Default: its class.
    progress: is called with a line of text before each step.

    Raises UsageError, ConversionFailed, VerificationFailed (with a table of what differs),
    WeightsError or PublishFailed. Then nothing was published.
    """
    module = getattr(module, "_orig_mod", module)  # torch.compile wraps what can be captured
    _check_numbers(max_batch_size, opset, version)
    steps = Steps(progress)
    with staging(Path(repository), name) as stage:
        with steps.step("convert"):
            inputs = bind_inputs(
                module, example_inputs, names=input_names, batch=batch, dynamic_axes=dynamic_axes
            )
            converted = _convert(
                module,
                _with_ranges(inputs, ranges or {}),
                output_names,
                stage.files / MODEL_FILE,
                name=name,
                opset=opset,
                max_batch_size=max_batch_size if batch else 0,
                seed=seed,
                source=source,
                say=steps.say,
            )
        with steps.step("check", "checking the file"):
            check_file(converted.model)
            try_loading(converted.model)
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
                source=converted.provenance,
                axes=proven.axes,
            )
            path, manifest = publish(stage, manifest, version)
    return ExportResult(path, manifest, steps.seconds)


def _convert(  # noqa: PLR0913 (what the source step is told)
    module: torch.nn.Module,
    inputs: Inputs,
    output_names: Sequence[str] | None,
    path: Path,
    *,
    name: str,
    opset: int,
    max_batch_size: int,
    seed: int,
    source: str,
    say: Progress,
) -> Converted:
    refuse_nan(module.state_dict())
    with evaluating(module):
        outputs = name_outputs(_try_example(module, inputs), inputs, output_names)
        say("converting to ONNX")
        program = convert(module, inputs, outputs, opset)
        say("running the module at every size that is to be proved")
        cases = make_cases(module, inputs, outputs, max_batch_size=max_batch_size, seed=seed)
    origin = {
        "module": source or f"{type(module).__module__}:{type(module).__qualname__}",
        "weights_sha256": digest(module),
    }
    correct_outputs(program.model, inputs, cases)
    strip(program.model, name, {f"penstock.{key}": value for key, value in origin.items()})
    _write(program, path)
    return Converted(path, inputs, outputs, cases, opset, (), origin)


def _try_example(module: torch.nn.Module, inputs: Inputs) -> Any:
    """Return what forward makes of the example; raise ConversionFailed if it fails."""
    try:
        return call(module, inputs, [item.example for item in inputs])
    except Exception as error:  # whatever forward raises
        way_out = "Do the example inputs have the shape and type that forward expects?"
        situation = "with the example inputs"
        raise ConversionFailed(explain_failure(error, situation, way_out)) from error


def _write(program: torch.onnx.ONNXProgram, path: Path) -> None:
    """Write the model; above 2 GB, the weights go into a file of their own beside it."""
    try:
        program.save(str(path))
    except OSError as error:
        raise PublishFailed(f"{path.parent}: cannot be written: {error.strerror}") from error


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


def _with_ranges(inputs: Inputs, ranges: Ranges) -> Inputs:
    unknown = sorted(set(ranges) - {item.name for item in inputs})
    if unknown:
        raise UsageError(
            f"ranges for {listed(unknown)}, but the inputs are {listed([i.name for i in inputs])}",
        )
    none = (None, None)
    return tuple(
        replace(item, low=low, high=high)
        for item in inputs
        for low, high in [ranges.get(item.name, none)]
    )


def _sizes(cases: Sequence[Case]) -> str:
    batches = sorted({case.rows for case in cases})
    return "batch " + ", ".join(map(str, batches)) if batches[0] else "its fixed shape"


def _producer() -> dict[str, str]:
    versions = {package: metadata.version(package) for package in _PACKAGES}
    return {**versions, "penstock": __version__, "python": platform.python_version()}
