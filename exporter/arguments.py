"""The command line: what each verb takes. Light: `--help` answers at once, without numpy."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service import __version__

PROGRAM: Final = "penstock-export"
QUANTIZE: Final = ("none", "auto", "int8-dynamic", "int8-static", "w4", "fp16")
EXPORT: Final = "export"  # the verb that need not be written

_DESCRIPTION: Final = """\
Turn a trained model into a version of a model repository that `penstock serve` serves.

The model is captured, written as ONNX, run in ONNX Runtime at several sizes and compared with its
source. A version appears in the repository only if all of that went well."""
_EPILOG: Final = """\
SOURCE is what builds the model: a function or a class, as PACKAGE.MODULE:NAME (the current
directory is importable) or FILE.py:NAME, with arguments as NAME(width=8) if it takes any. It is
run. Or a file: see docs/exporter.md.

Example inputs come from --input, or from `example_inputs` in the module of SOURCE: a function or
a value that gives one tensor, a tuple of them in the order of forward's arguments, or a dict by
argument. An --input is NAME:TYPE[EXTENTS] with the name of an argument of forward:
  image:float32[batch,784]                       axis 0 is the batch, of any size
  tokens:int64[batch,length]=0..30521            a second free axis, values in a range
  image:float32[batch,3,height=64,width=64]      free axes, tried at 64 by default
  h0:float32[1,batch,16]                         a state, whose batch may be on any axis

example: model.py holds `def build_model() -> nn.Module`, training wrote weights.safetensors
  penstock-export model.py:build_model --weights weights.safetensors \\
      --input 'image:float32[batch,784]' --name digits --repository models
  penstock serve models

other verbs: penstock-export VERB --help
{verbs}

exit codes: 0 published, 2 wrong usage, 3 unsafe file refused, 4 conversion failed,
5 the exported model differs from its source, 6 the gate is not passed, 7 a step crashed,
1 anything else. Unless 0, nothing was published."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb of the command line.

    add: adds its arguments. run: "module:function" that does it, imported when it is wanted.
    """

    summary: str
    add: Callable[[argparse.ArgumentParser], None]
    run: str


def make_parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb; that of `export` is the one without a verb."""
    is_export = verb == EXPORT
    parser = argparse.ArgumentParser(
        prog=PROGRAM if is_export else f"{PROGRAM} {verb}",
        description=_DESCRIPTION if is_export else VERBS[verb].summary,
        epilog=_EPILOG.format(verbs=_verbs()) if is_export else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    VERBS[verb].add(parser)
    parser.add_argument("--json", action="store_true", help="write a report to stdout as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress, only errors")
    if is_export:
        parser.add_argument(
            "-V", action="version", version=f"{PROGRAM} {__version__}", help="print the version"
        )
    return parser


def _verbs() -> str:
    return "\n".join(
        f"  {name:<17} {verb.summary[0].lower()}{verb.summary[1:]}"
        for name, verb in VERBS.items()
        if name != EXPORT
    )


def _add_export(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    add_inputs(parser)
    add_proof(parser)
    add_compression(parser)
    add_processing(parser)
    add_package(parser)
    parser.add_argument("--dry-run", action="store_true", help="do everything but publish")
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="options by name, for CI; "
        "what the command line says wins")  # fmt: skip


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add what is exported, and what may be loaded for it."""
    group = parser.add_argument_group("source")
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="what builds the model: "
        "PACKAGE.MODULE:NAME, FILE.py:NAME, or a file")  # fmt: skip
    group.add_argument("--weights", type=Path, metavar="FILE", help=".safetensors or a state dict "
        "(.pt); default: the weights that SOURCE gives the model")  # fmt: skip
    group.add_argument("--trust-pickle", action="store_true", help="load files that can run code "
        "when they are loaded: whole pickled modules, .pt2, .joblib")  # fmt: skip
    group.add_argument("--allow-global", action="append", metavar="NAME", help="a name that a "
        "pickle may hold, such as numpy.dtype; repeat")  # fmt: skip
    group.add_argument("--opset", type=int, default=20, metavar="N", help="ONNX opset (default: "
        "%(default)s)")  # fmt: skip
    add_timeout(group)


def add_timeout(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """Add --timeout."""
    parser.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="longest "
        "that a step in a process of its own may take (default: %(default)g)")  # fmt: skip


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Add what goes in and comes out."""
    group = parser.add_argument_group("inputs and outputs")
    group.add_argument("--input", action="append", metavar="SPEC", help="an input, see below; "
        "repeat")  # fmt: skip
    group.add_argument("--sample", action="append", type=Path, metavar="FILE.npz", help="real "
        "data for the proof, by input; of two or more, an extent that differs is free")  # fmt: skip
    group.add_argument("--axis", action="append", metavar="NAME=LOW..HIGH", help="sizes that a "
        "free axis may have; both are proved; repeat")  # fmt: skip
    group.add_argument("--output", action="append", metavar="NAME", help="name of an output, in "
        "the order of forward; default: keys of the returned dict, or 'output'")  # fmt: skip
    group.add_argument("--state", action="append", metavar="INPUT=OUTPUT", help="the output that "
        "an input is to be given next time; repeat")  # fmt: skip
    group.add_argument("--max-batch-size", type=int, default=64, metavar="N", help="largest batch "
        "that is proved and served (default: %(default)s)")  # fmt: skip
    group.add_argument("--batch-bucket", action="append", type=int, metavar="N", help="a further "
        "size of batch to prove and to run before it serves; repeat")  # fmt: skip
    group.add_argument("--no-batch", action="store_true", help="the model has one fixed shape and "
        "no batch axis")  # fmt: skip


def add_proof(parser: argparse.ArgumentParser) -> None:
    """Add what the proof allows."""
    group = parser.add_argument_group("proof")
    group.add_argument("--rtol", type=float, metavar="X", help="allowed difference from the "
        "source, over the largest value of the output (default: 1e-4; FP16: 5e-3)")  # fmt: skip
    group.add_argument("--atol", type=float, metavar="X", help="absolute difference that is "
        "always allowed (default: 1e-6; FP16: 1e-4)")  # fmt: skip
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of the random data "
        "(default: 0)")  # fmt: skip


def add_compression(parser: argparse.ArgumentParser) -> None:
    """Add what may make the model smaller and faster, and what it must not lose by it."""
    group = parser.add_argument_group("compression")
    group.add_argument("--quantize", default="none", choices=QUANTIZE, help="a smaller variant; "
        "auto: the fastest that passes the gate, else the model as it is (default: "
        "%(default)s)")  # fmt: skip
    group.add_argument("--calibration", action="append", type=Path, metavar="FILE.npz", help="some "
        "hundred rows of the training data, by input: needed for int8-static, and what variants "
        "are judged on; repeat for other sizes")  # fmt: skip
    group.add_argument("--evaluate", metavar="MODULE:FUNCTION", help="your metric: gets a function "
        "from inputs to outputs, returns a number, higher is better")  # fmt: skip
    group.add_argument("--gate", metavar="TEXT", help="what a variant must reach; default: "
        "'drop=0.005 agree=99%% speedup=1.1 error=10%%'")  # fmt: skip
    group.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="what it is to "
        "run on (default: %(default)s)")  # fmt: skip


def add_processing(parser: argparse.ArgumentParser) -> None:
    """Add what is computed before and after the model, in the graph."""
    group = parser.add_argument_group("processing in the graph")
    add = group.add_argument
    add("--uint8-input", action="store_true", help="take bytes, times 1/255 unless --scale says "
        "otherwise")  # fmt: skip
    add("--layout", default="nchw", choices=("nchw", "nhwc"), help="of images that clients send "
        "(default: %(default)s)")  # fmt: skip
    add("--resize", metavar="HxW", help="take images of any size, bring them to this one")
    add("--scale", type=float, metavar="X", help="multiply the input")
    add("--normalize", metavar="MEAN,STD", help="one number each, or one a channel: "
        "0.485/0.456/0.406,0.229/0.224/0.225")  # fmt: skip
    add("--softmax", action="store_true", help="scores become probabilities that sum to one")
    add("--sigmoid", action="store_true", help="each score becomes a probability of its own")
    add("--l2-normalize", action="store_true", help="vectors become of length one")
    add("--top-k", type=int, metavar="K", help="answer the K best classes: scores and indices")
    add("--process-input", default="", metavar="NAME", help="the input meant, of several")
    add("--process-output", default="", metavar="NAME", help="the output meant, of several")


def add_package(parser: argparse.ArgumentParser) -> None:
    """Add what a version is called and what goes with it."""
    group = parser.add_argument_group("package")
    group.add_argument("--name", help="name of the model; requests carry it")
    group.add_argument("--repository", metavar="DIR", help="model repository; made if missing")
    group.add_argument("--version", type=int, metavar="N", help="version to publish (default: the "
        "next; one that exists is never changed)")  # fmt: skip
    group.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, one a "
        "line")  # fmt: skip
    group.add_argument("--config-pbtxt", action="store_true", default=None, help="write a "
        "config.pbtxt for Triton if there is none (default: if there are labels)")  # fmt: skip
    add_key(group, "private key in PEM form: sign the version with it")


def _add_quantize(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL.onnx", help="the file to make it from")
    add("output", type=Path, metavar="OUTPUT.onnx", help="the file to write")
    add("--kind", required=True, choices=QUANTIZE[2:], help="what to make")
    add("--calibration", action="append", type=Path, metavar="FILE.npz", help="data for "
        "int8-static, by input; repeat for other sizes")  # fmt: skip
    add("--method", default="minmax", choices=("minmax", "percentile"), help="how int8-static "
        "finds ranges; percentile leaves out rare extremes (default: %(default)s)")  # fmt: skip
    add("--timeout", type=float, default=600.0, metavar="SECONDS", help="longest that it may take "
        "(default: %(default)g)")  # fmt: skip


def _add_bench(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("models", nargs="+", type=Path, metavar="MODEL.onnx", help="files with the same inputs")
    add("--sample", action="append", type=Path, metavar="FILE.npz", help="inputs of a run; repeat "
        "for other sizes (default: zeros)")  # fmt: skip
    add("--batch", action="append", type=int, metavar="N", help="rows of zeros, without --sample; "
        "repeat (default: 1 and 8)")  # fmt: skip
    add("--threads", type=int, default=1, metavar="N", help="of each run (default: %(default)s)")
    add("--seconds", type=float, default=2.0, metavar="S", help="to measure each size "
        "(default: %(default)g)")  # fmt: skip


def add_key(parser: "argparse.ArgumentParser | argparse._ArgumentGroup", text: str) -> None:
    """Add --key."""
    parser.add_argument("--key", type=Path, metavar="FILE.pem", help=text)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help=".onnx file, or a version")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.onnx", help="where it is written; what "
        "is there is not overwritten")  # fmt: skip
    add_inputs(parser)
    add_proof(parser)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE.onnx", help="what is held "
        "against the source")  # fmt: skip
    add_inputs(parser)
    add_proof(parser)


def _add_lint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repository", type=Path, metavar="REPO", help="repository, directory of "
        "one model, or .onnx file")  # fmt: skip
    add_key(parser, "public key in PEM form that every version must be signed with")
    parser.add_argument("--strict", action="store_true", help="warnings fail too")
    add_timeout(parser)


def _add_diff(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="REPO/NAME", help="directory of the model")
    parser.add_argument("first", metavar="VERSION", help="number of a version")
    parser.add_argument("second", metavar="VERSION", help="number of another")
    add_timeout(parser)


def _add_sign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="REPO/NAME/VERSION", help="the version")
    add_key(parser, "private key in PEM form; its password is taken from PENSTOCK_KEY_PASSWORD")


def _add_verify_signature(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="REPO/NAME/VERSION", help="the version")
    add_key(parser, "public key in PEM form")


def _add_nothing(_parser: argparse.ArgumentParser) -> None:
    pass


VERBS: Final[dict[str, Verb]] = {
    EXPORT: Verb("Export a model and publish it", _add_export, "exporter.verbs.export:run"),
    "inspect": Verb("Say what an ONNX file holds", _add_inspect, "exporter.verbs.inspect:run"),
    "convert": Verb(
        "Write a proved ONNX file, without a repository", _add_convert, "exporter.verbs.convert:run"
    ),
    "verify": Verb("Compare an ONNX file with a source", _add_verify, "exporter.verbs.verify:run"),
    "package": Verb("Publish an ONNX file", _add_export, "exporter.verbs.export:run"),
    "lint": Verb("Say what a server would refuse or warn of", _add_lint, "exporter.verbs.lint:run"),
    "diff": Verb("Say what changed between two versions", _add_diff, "exporter.verbs.diff:run"),
    "sign": Verb("Sign a published version", _add_sign, "exporter.verbs.sign:run"),
    "verify-signature": Verb(
        "Check a signature as a server does", _add_verify_signature, "exporter.verbs.sign:verify"
    ),
    "doctor": Verb(
        "Say what is installed, and what else would help",
        _add_nothing,
        "exporter.verbs.doctor:run",
    ),
    "quantize": Verb(
        "Make one variant of an ONNX file, without a gate",
        _add_quantize,
        "exporter.verbs.quantize:run",
    ),
    "bench": Verb(
        "Time ONNX files against the first of them", _add_bench, "exporter.verbs.bench:run"
    ),
}
