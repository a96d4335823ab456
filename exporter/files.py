"""A proved file of the user's own, and the proof of one: an export without a repository."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from exporter.children import DEFAULT_TIMEOUT_S
from exporter.errors import UsageError
from exporter.flow import Proven
from exporter.inspection import inspect
from exporter.package import manifest_of, write_file
from exporter.pipeline import contents_of
from exporter.plan import Finished
from exporter.progress import Progress, Steps
from exporter.proving import prove_apart
from exporter.report import Report
from exporter.requests import make_request
from exporter.sources import convert
from service.repository.manifest import Tolerance


def convert_file(
    model: Any,
    target: str | Path,
    *,
    tolerance: Tolerance | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Convert a model to a file, proved like one that is published, and say what was proved.

    target: the file; its weights go beside it if they are above 2 GB, and then it must be called
    model.onnx. options: those of `export` on source, inputs and proof.
    Raises what `export` raises, and UsageError if the file exists; then nothing was written.
    """
    target = Path(target)
    if target.exists():
        raise UsageError(f"{target} exists, and is not overwritten")
    request = make_request(model, **options)
    steps = Steps(progress)
    with TemporaryDirectory(prefix="penstock-") as work:
        with steps.step("convert"):
            converted = convert(request, Path(work), progress=steps.say, timeout_s=timeout_s)
        with steps.step("verify", "checking the file"):
            proven = prove_apart(converted, tolerance, request.limits, steps, timeout_s)
        with steps.step("publish", f"writing {target}"):
            write_file(converted.model, target)
    plain = Finished(proven, converted.cases, proven.tolerance)
    contents = contents_of(request, converted, plain, (), "")
    return Report(manifest_of(contents), proven.agreement, steps.seconds)


def verify_file(
    model: Any,
    file: str | Path,
    *,
    tolerance: Tolerance | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    progress: Progress | None = None,
    **options: Any,
) -> Proven:
    """Hold an ONNX file against a source, at every size that an export would try.

    Names and types of inputs and outputs must be those that an export would give.
    options: those of `export` on source, inputs and proof.
    Raises ConversionFailed if they have other names, VerificationFailed if they differ.
    """
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    request = make_request(model, **options)
    steps = Steps(progress)
    with TemporaryDirectory(prefix="penstock-") as work:
        with steps.step("convert"):
            converted = convert(request, Path(work), progress=steps.say, timeout_s=timeout_s)
        with steps.step("verify"):
            # The file's own opset is as good as any.
            other = replace(converted, model=path, opset=inspect(path).opsets.get("", 0))
            return prove_apart(other, tolerance, request.limits, steps, timeout_s)
