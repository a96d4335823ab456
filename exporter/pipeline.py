"""The export, from a source to a published version: the one module that knows every step.

load -> convert -> strip -> check -> verify -> variants (timed, gated) -> processing -> publish
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from exporter.children import DEFAULT_TIMEOUT_S
from exporter.errors import UsageError
from exporter.flow import Converted
from exporter.gate import Gate
from exporter.inputs import DynamicAxes, Ranges
from exporter.model_config import can_say_batch, config_of
from exporter.package import (
    Contents,
    find_labelled,
    write_contents,
)
from exporter.plan import Finished, Plan
from exporter.processing import Processing
from exporter.progress import Progress, Steps
from exporter.proving import prove_apart
from exporter.publish import Stage, next_version, publish, staging
from exporter.report import Report, write_reports
from exporter.requests import DEFAULT_OPSET, make_request
from exporter.signing import PrivateKey
from exporter.sources import convert
from exporter.sources.base import Request
from exporter.specs import InputSpec
from exporter.variants.kinds import check_request
from service.repository.manifest import Manifest, Parity, Tolerance
from service.repository.names import MODEL_NAME_RULE, is_model_name

if TYPE_CHECKING:
    from exporter.variants.calibration import Calibration
    from exporter.variants.subject import Evaluate


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A version. path: its directory in the repository; published: it is there.

    After a dry run it is not: path says where it would be.
    """

    path: Path
    manifest: Manifest
    report: Report
    published: bool = True

    @property
    def version(self) -> int:
        """Return the number of the version."""
        return self.manifest.version

    @property
    def parity(self) -> tuple[Parity, ...]:
        """Return how far ONNX Runtime is from the source, for each batch size and output."""
        return self.manifest.parity

    @property
    def chosen(self) -> str:
        """Return which variant it is: "source" for the model as it was converted."""
        return self.manifest.variant

    @property
    def seconds(self) -> Mapping[str, float]:
        """Return how long each step took."""
        return self.report.seconds


def export(  # noqa: PLR0913 (each argument is a decision of the user's, and has a default)
    model: Any,
    example_inputs: Any = None,
    *,
    name: str,
    repository: str | Path,
    weights: str | Path | None = None,
    inputs: Sequence[str | InputSpec] = (),
    samples: Sequence[Mapping[str, Any]] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    batch: bool = True,
    dynamic_axes: DynamicAxes | None = None,
    limits: Mapping[str, tuple[int, int]] | None = None,
    ranges: Ranges | None = None,
    max_batch_size: int = 64,
    batch_buckets: Sequence[int] = (),
    labels: Sequence[str] = (),
    state: Mapping[str, str] | None = None,
    tolerance: Tolerance | None = None,
    opset: int = DEFAULT_OPSET,
    version: int | None = None,
    seed: int = 0,
    source: str = "",
    trust_pickle: bool = False,
    allow_globals: Sequence[str] = (),
    config_pbtxt: bool | None = None,
    quantize: str = "none",
    calibration: "Calibration | None" = None,
    evaluate: "Evaluate | None" = None,
    gate: Gate | None = None,
    device: str = "cpu",
    processing: Processing | None = None,
    processed: tuple[str, str] = ("", ""),
    key: str | Path | None = None,
    dry_run: bool = False,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    progress: Progress | None = None,
) -> ExportResult:
    """Convert a model to ONNX, prove that it computes the same, and publish it as a version.

    model: of a framework, or SOURCE as text or path, see docs/exporter.md. A module is
    exported in eval mode and left as it was; what text names is loaded in a child process.
    example_inputs: one tensor, several in the order of forward's arguments, or by name. Their
    first rows are part of the proof; random data in its range is added. None: the source's own.
    weights: .safetensors or a state dict for the module.
    inputs: as `--input` says them: "image:float32[batch,784]=0..1".
    samples: two or more examples by input name; an extent that differs between them is free.
    name: of the model. repository: directory, made if it is missing.
    input_names: default: forward's arguments. output_names: default: the keys of the returned
    dict, "output" for a single tensor, else output_0, output_1 and so on.
    batch: axis 0 of every input and output is the batch, of any size. False: a fixed shape.
    dynamic_axes: axes besides the batch that may have any size: {"tokens": {1: "length"}}.
    limits: smallest and largest size of such an axis, by its name; both are proved.
    ranges: lowest and highest random value by input; default: those of the example.
    max_batch_size: the largest batch that is proved and that the server will run.
    batch_buckets: further sizes of batches to prove and to run before the version serves.
    labels: names of the classes, for the output whose last axis has as many.
    state: the output that is to be given to an input next time, by that input; its batch may be
    on another axis than 0, if that is called so. Default, for such: what the names of both show.
    tolerance: default 1e-4 of the largest value of each output; 5e-3 if one is FP16.
    version: default: one above the highest. A version that exists is never changed.
    source: where the model came from, for the manifest. Default: SOURCE, or the model's class.
    trust_pickle, allow_globals: may files be loaded that can run code, or hold these names?
    config_pbtxt: write one where there is none; None: if there are labels, which only it can say,
    unless a state has its batch elsewhere than on axis 0, which it cannot say.
    quantize: none, auto (the fastest variant that passes the gate, else the model as it is), or
    int8-dynamic, int8-static, w4, fp16. calibration: arrays of real inputs, for int8-static.
    evaluate: your metric, higher is better; gets a function from inputs to outputs.
    gate: what a variant must reach. device: what it is to run on, "cpu" or "cuda".
    processing: pre- and post-processing in the graph, see exporter.processing; calibration and
    evaluate see the model without it. processed: the input and the output that it works on,
    needed where there are several.
    key: a private key in PEM form that signs the version. dry_run: do all but publish.
    timeout_s: the longest that a child process may take. progress: is called with a line of text
    before each step.

    Raises UsageError, UnsafeArtefact, WeightsError, ConversionFailed, VerificationFailed (with a
    table of what differs), CompressionFailed, GateFailed, ChildCrashed or PublishFailed; nothing
    was published then.
    """
    if not is_model_name(name):
        raise UsageError(f"{name!r} cannot name a model: {MODEL_NAME_RULE}")
    if version is not None and not 1 <= version < 10**18:
        raise UsageError(f"version is {version}; expected a number from 1")
    request = make_request(
        model,
        example_inputs,
        name=name,
        weights=weights,
        inputs=inputs,
        samples=samples,
        input_names=input_names,
        output_names=output_names,
        batch=batch,
        dynamic_axes=dynamic_axes,
        limits=limits,
        ranges=ranges,
        max_batch_size=max_batch_size,
        batch_buckets=batch_buckets,
        opset=opset,
        seed=seed,
        source=source,
        trust_pickle=trust_pickle,
        allow_globals=allow_globals,
        state=state,
    )
    plan = Plan(
        quantize, calibration, evaluate, gate or Gate(), device, processing or Processing(),
        *processed,
    )  # fmt: skip
    check_request(plan.quantize, plan.device, calibrated=calibration is not None)
    private = None if key is None else PrivateKey(Path(key))
    steps = Steps(progress)
    with _stage(Path(repository), name, dry_run=dry_run) as stage:
        with steps.step("convert"):
            converted = convert(request, stage.work, progress=steps.say, timeout_s=timeout_s)
        with steps.step("verify", "checking the file"):
            proven = prove_apart(converted, tolerance, request.limits, steps, timeout_s)
            named = tuple(labels) or converted.labels
            labels_of = find_labelled(named, proven.outputs, asked=bool(labels))
        finished = Finished(proven, converted.cases, proven.tolerance)
        if plan.changes_something:
            from exporter.finish import finish  # noqa: PLC0415 (it loads onnx and the runtime)

            finished = finish(
                converted, proven, plan, stage.work, steps,
                limits=request.limits, timeout_s=timeout_s,
            )  # fmt: skip
        with steps.step("publish"):
            contents = contents_of(request, converted, finished, named, labels_of)
            manifest = write_contents(stage, contents)
            report = _report(manifest, finished, steps)
            write_reports(stage, report)
            write_config = config_pbtxt
            if write_config is None:
                write_config = bool(manifest.labels) and can_say_batch(manifest)
            if dry_run:
                number = version or next_version(Path(repository) / name)
                path = Path(repository) / name / str(number)
                return ExportResult(path, manifest, report, published=False)
            steps.say("publishing")
            path, manifest = publish(
                stage,
                manifest,
                version,
                key=private,
                config=config_of(manifest) if write_config else None,
            )
    return ExportResult(path, manifest, replace(report, manifest=manifest))


def contents_of(
    request: Request,
    converted: Converted,
    finished: Finished,
    labels: tuple[str, ...],
    labels_of: str,
) -> Contents:
    """Return what becomes a version."""
    return Contents(
        name=request.name,
        proven=finished.proven,
        cases=finished.cases,
        opset=converted.opset,
        max_batch_size=request.max_batch_size if request.batch else 0,
        provenance=converted.provenance,
        packages=converted.packages,
        labels=labels if labels_of else (),
        labels_of=(finished.labelled or labels_of) if labels_of else "",
        state=converted.state,
        variant=finished.variant,
        tolerance=finished.tolerance,
        gate=finished.gate,
        session=finished.session,
        batch_buckets=request.batch_buckets,
    )


def _report(manifest: Manifest, finished: Finished, steps: Steps) -> Report:
    if finished.report is None:
        return Report(manifest, finished.proven.agreement, steps.seconds)
    return Report(
        manifest, finished.proven.agreement, steps.seconds,
        finished.report.to_json(), finished.report.to_markdown(),
    )  # fmt: skip


@contextmanager
def _stage(repository: Path, name: str, *, dry_run: bool) -> Iterator[Stage]:
    """Give a stage in the repository, or, for a dry run, in a place that goes away."""
    if not dry_run:
        with staging(repository, name) as stage:
            yield stage
        return
    with TemporaryDirectory(prefix="penstock-") as place, staging(Path(place), name) as stage:
        yield stage
