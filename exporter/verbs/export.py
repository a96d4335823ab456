"""`penstock-export SOURCE`: everything from a source to a published version."""

import argparse
import importlib.util
from dataclasses import asdict
from typing import Any, Final

from exporter.console import Console
from exporter.errors import UsageError
from service.repository.manifest import Tolerance

_EXTRA: Final = ("onnx", "onnx_ir")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Export, and show what was published. Raises ExportError."""
    _check_given(arguments)
    options = export_options(arguments)
    check_installed()
    from exporter import pipeline, report  # noqa: PLC0415 (a wrong option is told without them)
    from exporter.processing import read_labels  # noqa: PLC0415

    labels = read_labels(arguments.labels) if arguments.labels else ()
    result = pipeline.export(
        arguments.source,
        name=arguments.name,
        repository=arguments.repository,
        version=arguments.version,
        labels=labels,
        config_pbtxt=arguments.config_pbtxt,
        key=arguments.key,
        **compression_options(arguments),
        dry_run=arguments.dry_run,
        progress=console.say,
        **options,
    )
    console.export_result(
        report.as_text(
            result.report, result.path, arguments.repository, published=result.published
        ),
        report.as_json(result.report, result.path, published=result.published),
    )
    return 0


def export_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the arguments on source, inputs and proof mean to `exporter.export`."""
    from exporter.specs import (  # noqa: PLC0415 (numpy, which --help does without)
        check_batches,
        check_samples,
        parse_limits,
        parse_specs,
        read_samples,
    )

    limits = parse_limits(arguments.axis or ())
    specs = parse_specs(arguments.input or ())
    check_batches(specs, batch=not arguments.no_batch)
    samples = []
    for path in arguments.sample or ():
        samples.append(read_samples(path))
        if specs:
            check_samples(path, samples[-1], [spec.name for spec in specs])
    return {
        "weights": arguments.weights,
        "inputs": specs,
        "samples": samples,
        "output_names": arguments.output,
        "state": read_pairs("--state", arguments.state or ()),
        "batch": not arguments.no_batch,
        "limits": limits,
        "max_batch_size": arguments.max_batch_size,
        "batch_buckets": arguments.batch_bucket or (),
        "tolerance": tolerance_of(arguments),
        "opset": arguments.opset,
        "seed": arguments.seed,
        "trust_pickle": arguments.trust_pickle,
        "allow_globals": arguments.allow_global or (),
        "timeout_s": arguments.timeout,
    }


def compression_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the arguments on compression and processing mean to `exporter.export`."""
    from exporter.gate import Gate  # noqa: PLC0415 (--help does without)
    from exporter.processing import from_options  # noqa: PLC0415
    from exporter.specs import read_samples  # noqa: PLC0415

    sets = [read_samples(path, "--calibration") for path in arguments.calibration or ()]
    gate = Gate.parse(arguments.gate) if arguments.gate else None
    unused = [f"--{name}" for name in ("calibration", "evaluate", "gate")
              if getattr(arguments, name) and arguments.quantize == "none"]  # fmt: skip
    if unused:
        raise UsageError(f"{unused[0]} is for variants, and none is to be made: --quantize auto")
    return {
        "quantize": arguments.quantize,
        "calibration": sets or None,
        "evaluate": load_function(arguments.evaluate) if arguments.evaluate else None,
        "gate": gate,
        "device": arguments.device,
        "processing": from_options({**vars(arguments), "labels": None}),  # they are checked apart
        "processed": (arguments.process_input, arguments.process_output),
    }


def load_function(text: str) -> Any:
    """Return the function that `--evaluate MODULE:FUNCTION` names. Raises UsageError."""
    from exporter.sources.python import find_object  # noqa: PLC0415 (numpy, like the above)

    try:
        _, found = find_object(text)
    except UsageError as error:
        raise UsageError(str(error).replace("SOURCE", "--evaluate", 1)) from error
    if not callable(found):
        raise UsageError(f"--evaluate {text!r} is a {type(found).__name__}, not a function")
    return found


def check_installed() -> None:
    """Raise UsageError if a package of the extra is missing: the server is installed without."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} is not installed; the exporter needs: "
            "pip install 'penstock[export]'",
        )


def tolerance_of(arguments: argparse.Namespace) -> Tolerance | None:
    """Return the tolerance that was asked for, None for the default of the datatype."""
    given = {"relative": arguments.rtol, "absolute": arguments.atol}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if not 0 <= value < 1:
            raise UsageError(f"--{name[0]}tol is {value:g}; expected 0 to 1")
    return Tolerance(**{**asdict(Tolerance()), **chosen}) if chosen else None


def read_pairs(flag: str, texts: Any) -> dict[str, str]:
    """Return the pairs of a repeated NAME=VALUE. Raises UsageError."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name and value):
            raise UsageError(f"{flag} {text!r}: expected INPUT=OUTPUT")
        if name in pairs:
            raise UsageError(f"{flag}: {name} is given twice")
        pairs[name] = value
    return pairs


def _check_given(arguments: argparse.Namespace) -> None:
    missing = [
        flag
        for flag, value in (
            ("SOURCE", arguments.source),
            ("--name", arguments.name),
            ("--repository", arguments.repository),
        )
        if not value
    ]
    if missing:
        raise UsageError(
            f"the following arguments are required: {', '.join(missing)}; see --help",
        )
