"""`penstock-export`: arguments, progress, exit code. Imports torch only when there is work."""

import argparse
import importlib.util
import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

from exporter.errors import (
    ChildCrashed,
    CompressionFailed,
    ConversionFailed,
    ExportError,
    GateFailed,
    UnsafeArtefact,
    UsageError,
    VerificationFailed,
)
from service import __version__

EXIT_CODES: Final[dict[type[ExportError], int]] = {
    UsageError: 2,
    UnsafeArtefact: 3,
    ConversionFailed: 4,
    CompressionFailed: 4,
    VerificationFailed: 5,
    GateFailed: 6,
    ChildCrashed: 7,
}
_EXTRA: Final = ("onnx", "onnx_ir")
_DESCRIPTION: Final = """\
Turn a PyTorch module into a version of a model repository that `penstock serve` serves.

The module is captured, written as ONNX, run in ONNX Runtime at several batch sizes and compared
with PyTorch. A version appears in the repository only if all of that went well."""
_EPILOG: Final = """\
SOURCE is what builds the module: a function without required arguments or a class, as
PACKAGE.MODULE:NAME (the current directory is importable) or FILE.py:NAME. It is run.

Example inputs come from --input, or from `example_inputs` in the module of SOURCE: a function or
a value that gives one tensor, a tuple of them in the order of forward's arguments, or a dict by
argument. An --input is NAME:TYPE[EXTENTS] with the name of an argument of forward:
  image:float32[batch,784]                       axis 0 is the batch, of any size
  tokens:int64[batch,length]=0..30521            a second free axis, values in a range
  image:float32[batch,3,height=64,width=64]      free axes, tried at 64 by default

example: model.py holds `def build_model() -> nn.Module`, training wrote weights.safetensors
  penstock-export model.py:build_model --weights weights.safetensors \\
      --input 'image:float32[batch,784]' --name digits --repository models
  penstock serve models

exit codes: 0 published, 2 wrong usage, 3 unsafe file refused, 4 conversion failed,
5 the exported model differs from the module, 6 not good enough for the gate, 7 a child process
crashed, 1 anything else. Unless 0, nothing was published."""


@dataclass(frozen=True, slots=True)
class _Console:
    """Says on stderr what happens, with the seconds since the start."""

    quiet: bool
    start: float

    def say(self, line: str) -> None:
        if not self.quiet:
            _tell(f"[{time.monotonic() - self.start:5.1f} s] {line}")


def main(argv: Sequence[str] | None = None) -> int:
    """Export what the arguments say and return the exit code."""
    arguments = _parser().parse_args(argv)
    console = _Console(arguments.quiet, time.monotonic())
    # A stop from outside unwinds like Ctrl-C, so that no half-written version stays behind.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _export(arguments, console)
    except ExportError as error:
        _report_failure(arguments, error)
        return _exit_code(error)
    except KeyboardInterrupt:
        _tell("interrupted: nothing was published")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock-export",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "source", metavar="SOURCE", help="what builds the module: PACKAGE.MODULE:NAME, FILE.py:NAME"
    )
    add("--name", required=True, help="name of the model; requests carry it")
    add("--repository", required=True, metavar="DIR", help="model repository; made if missing")
    add("--weights", type=Path, metavar="FILE", help=".safetensors or a state dict (.pt); "
        "default: the weights that SOURCE gives the module")  # fmt: skip
    add("--input", action="append", default=[], metavar="SPEC", help="an input, see below; repeat")
    add("--sample", type=Path, metavar="FILE.npz", help="real data for the proof, by input")
    add("--output", action="append", default=[], metavar="NAME", help="name of an output, in the "
        "order of forward; default: keys of the returned dict, or 'output'")  # fmt: skip
    add("--max-batch-size", type=int, default=64, metavar="N", help="largest batch that is proved "
        "and served (default: %(default)s)")  # fmt: skip
    add("--no-batch", action="store_true", help="the model has one fixed shape and no batch axis")
    add("--opset", type=int, default=20, metavar="N", help="ONNX opset (default: %(default)s)")
    add("--rtol", type=float, metavar="X", help="allowed difference from PyTorch, over the largest "
        "value of the output (default: 1e-4; FP16: 5e-3)")  # fmt: skip
    add("--atol", type=float, metavar="X", help="absolute difference that is always allowed "
        "(default: 1e-6; FP16: 1e-4)")  # fmt: skip
    add("--seed", type=int, default=0, metavar="N", help="of the random data (default: 0)")
    add("--version", type=int, metavar="N", help="version to publish (default: the next; one that "
        "exists is never changed)")  # fmt: skip
    add("--trust-pickle", action="store_true", help="load files that can run code when they are "
        "loaded: whole pickled modules, .pt2, .joblib")  # fmt: skip
    add("--allow-global", action="append", default=[], metavar="NAME", help="a name that a pickle "
        "may hold, such as numpy.dtype; repeat")  # fmt: skip
    add("--json", action="store_true", help="write a report to stdout as JSON")
    add("--quiet", action="store_true", help="no progress, only errors")
    add("-V", action="version", version=f"penstock-export {__version__}", help="print the version")
    return parser


def _export(arguments: argparse.Namespace, console: _Console) -> None:
    from exporter.specs import (  # noqa: PLC0415 (--help without numpy)
        check_batches,
        check_samples,
        parse_specs,
        read_samples,
    )

    specs = parse_specs(arguments.input)
    check_batches(specs, batch=not arguments.no_batch)
    samples = read_samples(arguments.sample) if arguments.sample else None
    if specs and samples:
        check_samples(arguments.sample, samples, [spec.name for spec in specs])
    _check_installed()
    from exporter import pipeline, report  # noqa: PLC0415 (--help answers without onnx)

    result = pipeline.export(
        arguments.source,
        samples,
        name=arguments.name,
        repository=arguments.repository,
        weights=arguments.weights,
        specs=specs,
        output_names=arguments.output or None,
        batch=not arguments.no_batch,
        dynamic_axes={
            spec.name: {
                axis: name for axis, name in spec.axes.items() if axis or arguments.no_batch
            }
            for spec in specs
        },
        ranges={s.name: (s.low, s.high) for s in specs if s.low is not None and s.high is not None},
        max_batch_size=arguments.max_batch_size,
        tolerance=_tolerance(arguments),
        opset=arguments.opset,
        version=arguments.version,
        seed=arguments.seed,
        trust_pickle=arguments.trust_pickle,
        allow_globals=arguments.allow_global,
        progress=console.say,
    )
    if not arguments.quiet:
        _tell(report.as_text(result, arguments.repository))
    if arguments.json:
        _emit(report.as_json(result))


def _check_installed() -> None:
    """Raise UsageError if a package of the extra is missing: the server is installed without."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} is not installed; the exporter needs: "
            "pip install 'penstock[export]'",
        )


def _tolerance(arguments: argparse.Namespace) -> Any:
    """Return the tolerance that was asked for, None for the default of the datatype."""
    from service.repository.manifest import Tolerance  # noqa: PLC0415 (--help without numpy)

    given = {"relative": arguments.rtol, "absolute": arguments.atol}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name, value in chosen.items():
        if not 0 <= value < 1:
            raise UsageError(f"--{name[0]}tol is {value:g}; expected 0 to 1")
    return Tolerance(**{**asdict(Tolerance()), **chosen}) if chosen else None


def _report_failure(arguments: argparse.Namespace, error: ExportError) -> None:
    _tell(f"penstock-export: {error}")
    if arguments.json:
        _emit({"published": False, "error": type(error).__name__, "message": str(error)})


def _exit_code(error: ExportError) -> int:
    return next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 (for people)


def _emit(report: dict[str, object]) -> None:
    print(json.dumps(report, indent=2))  # noqa: T201 (for programs)
