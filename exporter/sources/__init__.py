"""Sources: a model of any framework becomes a file in ONNX and what the source itself computes.

`detect` says of which kind a source is, the kind's module opens it, and what follows is the same
for all: run it at every size to be proved, convert it, correct its shapes, strip it, write it.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from exporter.cases import make_cases, plainly
from exporter.children import DEFAULT_TIMEOUT_S, run_child
from exporter.errors import ChildCrashed, ConversionFailed, PublishFailed
from exporter.flow import Converted
from exporter.progress import Progress, silent
from exporter.sources.base import Opened, Request
from exporter.sources.detect import kind_of_object, kind_of_text, label_of
from exporter.sources.kinds import Kind, require
from exporter.specs import examples_of
from exporter.states import batch_axes, find_states, run_steps
from service.repository.manifest import MODEL_FILE

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Converted", "Request", "convert", "convert_here"]

INLINE_BYTES: Final = 2 * 1000**3  # protobuf cannot hold 2 GiB; weights above go to a second file
# What frameworks say on stderr is kept from the user; TensorFlow says it faster with less.
_QUIET: Final = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}
_COMMON: Final = ("onnx", "onnx_ir")
# Frameworks patch themselves, and loggers and warnings are silenced, for the whole process.
_ONE_AT_A_TIME: Final = threading.Lock()


def convert(
    request: Request,
    directory: Path,
    *,
    progress: Progress | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Converted:
    """Convert a source; the file is written to the directory as model.onnx.

    What is named by text is loaded and converted in a child process, which may crash. A live
    object cannot leave its process: it is converted in this one.
    Raises UsageError, UnsafeArtefact, WeightsError, ConversionFailed or ChildCrashed.
    """
    say = progress or silent
    require("the exporter", _COMMON, "export")
    if not isinstance(request.source, str | Path):
        with _ONE_AT_A_TIME:
            return convert_here(request, directory, progress=say)
    request = replace(request, source=str(request.source))
    kind = kind_of_text(request.source)
    kind.check(request)
    *others, last = kind.environments()
    for environment in others:
        try:
            return _in_child(request, kind, directory, say, timeout_s, environment)
        except (ConversionFailed, ChildCrashed) as error:
            reason = str(error).splitlines()[0]
            say(f"not with {' '.join(environment.values())}: {reason}; trying another way")
    return _in_child(request, kind, directory, say, timeout_s, last)


def _in_child(
    request: Request,
    kind: Kind,
    directory: Path,
    say: Progress,
    timeout_s: float,
    environment: Mapping[str, str],
) -> Converted:
    converted: Converted = run_child(
        "exporter.sources:convert_here",
        (request, directory),
        what=f"the conversion of {label_of(request.source)}",
        timeout_s=timeout_s,
        progress=say,
        environment={**_QUIET, **environment},
        has_network=kind.has_network,  # a file has no business on the network
    )
    return converted


def convert_here(request: Request, directory: Path, *, progress: Progress) -> Converted:
    """Convert a source in this process."""
    path = directory / MODEL_FILE
    with _opened(request, progress) as (source, packages):
        progress("converting to ONNX")
        model = source.convert()
        progress("running the source at every size that is to be proved")
        cases = make_cases(
            source.run,
            source.inputs,
            source.outputs,
            max_batch_size=request.max_batch_size if request.batch else 0,
            seed=request.seed,
            explain=source.explain,
            batches=request.batch_buckets,
            limits=request.limits,
        )
        pairs = find_states(request.state, source.inputs, cases)
        axes = batch_axes(source.inputs, pairs)
        cases = tuple(replace(case, batch_axes=axes) for case in cases)
        stepping = run_steps(
            source.run, source.inputs, pairs, cases,
            seed=request.seed, explain=source.explain or plainly, limits=request.limits,
        )  # fmt: skip
    _finish(model, request.name, source, cases, path)
    return Converted(
        path,
        source.inputs,
        source.outputs,
        cases,
        source.opset,
        source.labels,
        source.provenance,
        versions_of(packages),
        stepping,
    )


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package that is installed, by its name on the index."""
    versions = {}
    for package in packages:
        name = package.replace("_", "-")
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@contextmanager
def _opened(request: Request, progress: Progress) -> Iterator[tuple[Opened, tuple[str, ...]]]:
    """Open the source, whatever kind it is; name the packages of its kind too."""
    if isinstance(request.source, str):
        kind = kind_of_text(request.source)
        request = replace(request, label=request.label or label_of(request.source))
        progress(f"loading {request.label}")
    else:
        kind = kind_of_object(request.source)
    request = replace(request, has_samples=request.examples is not None)
    if request.specs:
        samples = request.examples or {}
        request = replace(request, examples={**examples_of(request.specs, request.seed), **samples})
    with kind.opened(request) as source:
        yield source, source.packages or kind.packages


def _finish(model: "ir.Model", name: str, source: Opened, cases: Sequence[Any], path: Path) -> None:
    """Correct, strip and write the graph; above 2 GB, weights go into a file beside it."""
    import onnx_ir as ir  # noqa: PLC0415 (sources that are refused need no ONNX)

    from exporter.sources.shapes import correct_outputs  # noqa: PLC0415
    from exporter.sources.strip import strip  # noqa: PLC0415

    correct_outputs(model, source.inputs, cases)
    strip(model, name, {f"penstock.{key}": value for key, value in source.provenance.items()})
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values()
               if value.const_value is not None)  # fmt: skip
    try:
        if size < INLINE_BYTES:
            ir.external_data.load_to_model(model)
            ir.save(model, path)
        else:
            ir.save(model, path, external_data=f"{path.name}.data")
    except OSError as error:
        raise PublishFailed(f"{path.parent}: cannot be written: {error.strerror}") from error
