"""`penstock predict`: inputs from files to a server, its answer to a table, JSON or a file."""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import grpc
import numpy as np

from service.cli.answers import as_json, as_npy, as_table, check_npy
from service.cli.connection import ADDRESS_HELP, add_tls_flags, credentials, default_address
from service.cli.inputs import gather
from service.cli.usage import UsageError
from service.client import Client, RequestRefused
from service.errors import dims, listed
from service.pb.grpc_service_pb2 import ModelMetadataResponse
from service.tensors import BY_WIRE, Array, Tensors, TensorSpec

_FORMATS: Final = ("table", "json", "npy")
_EPILOG: Final = """\
examples:
  penstock predict digit.png                        the server's only model
  penstock predict rows.npy --model digits --top 3  a batch, three best classes a row
  echo '[[0.5, 1.5]]' | penstock predict -          JSON from the standard input
  penstock predict --input a=a.npy --input b=b.npy --model two_inputs --format json

Files are told apart by what they hold: .npy, .npz, JSON (nested lists, an object of them by
input, or the protocol's form), or a picture. A picture is resized to the input's shape; inputs
of floating type get 0 to 1, integers 0 to 255. A missing batch axis is added.
exit code: 0 answered, 1 the server refused or is not there, 2 wrong usage
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is sent, to whom, and in which form the answer is shown."""
    parser.add_argument("files", nargs="*", metavar="INPUT", help="file, or - for standard input")
    parser.add_argument("--server", metavar="ADDRESS", help=ADDRESS_HELP)
    parser.add_argument("--model", metavar="NAME", help="(default: the server's only one)")
    parser.add_argument("--version", default="", metavar="N", help="(default: the newest)")
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=FILE", help="file for one input"
    )
    parser.add_argument(
        "--output", action="append", default=[], metavar="NAME", help="only this output; repeatable"
    )
    parser.add_argument("--format", choices=_FORMATS, default="table", help="(default: table)")
    parser.add_argument("--out", metavar="FILE", help="write the answer to FILE")
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        metavar="K",
        help="best classes to show; 0: raw scores (default: 5)",
    )
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, one a line")
    parser.add_argument(
        "--deadline", type=float, default=60.0, metavar="SECONDS", help="to answer (default: 60)"
    )
    parser.add_argument(
        "--stream", action="store_true", help="send each row as a request of one stream"
    )
    add_tls_flags(parser)
    parser.epilog = _EPILOG


def run(arguments: argparse.Namespace) -> int:
    """Ask the server and show the answer.

    Raises UsageError for what cannot be sent, ClientError for what the server refused.
    """
    address = arguments.server or default_address()
    with Client(
        address,
        credentials=credentials(arguments),
        server_name=arguments.tls_name,
        deadline=arguments.deadline,
    ) as client:
        model = arguments.model or _only_model(client)
        metadata = _metadata(client, model, arguments.version)
        inputs = gather(arguments.files, _named(arguments.input), _specs(metadata.inputs))
        outputs = arguments.output or [output.name for output in metadata.outputs]
        _check_out(arguments, outputs)
        started = time.perf_counter()
        if arguments.stream:
            answer = _stream(client, model, arguments, inputs)
        else:
            answer = client.infer(
                model, inputs, outputs=arguments.output, version=arguments.version
            )
        elapsed_ms = (time.perf_counter() - started) * 1e3
    _show(arguments, metadata, answer, f"{model} at {address}: {elapsed_ms:.1f} ms")
    return 0


def _only_model(client: Client) -> str:
    names = sorted({entry.name for entry in client.index()})
    if len(names) != 1:
        raise UsageError(f"--model is missing; the server has {listed(names)}")
    return names[0]


def _metadata(client: Client, model: str, version: str) -> ModelMetadataResponse:
    try:
        return client.model_metadata(model, version)
    except RequestRefused as error:
        if error.code is not grpc.StatusCode.NOT_FOUND:
            raise
        ready = [entry for entry in client.index() if entry.state == "READY"]
        nearest = [entry for entry in ready if entry.name == model] or ready
        known = listed([f"{entry.name} {entry.version}" for entry in nearest])
        raise RequestRefused(error.code, f"{error}; ready are {known}") from None


def _specs(tensors: Iterable[ModelMetadataResponse.TensorMetadata]) -> list[TensorSpec]:
    return [
        TensorSpec(tensor.name, BY_WIRE[tensor.datatype], tuple(tensor.shape)) for tensor in tensors
    ]


def _named(pairs: list[str]) -> dict[str, str]:
    named: dict[str, str] = {}
    for pair in pairs:
        name, sign, path = pair.partition("=")
        if not (name and sign and path) or name in named:
            raise UsageError(f"--input {pair}: expected NAME=FILE, each NAME once")
        named[name] = path
    return named


def _check_out(arguments: argparse.Namespace, outputs: list[str]) -> None:
    if arguments.format != "npy":
        return
    if arguments.out:
        check_npy(arguments.out, outputs)
    elif sys.stdout.isatty():
        raise UsageError("--format npy writes bytes: give --out FILE, or a pipe")


def _stream(client: Client, model: str, arguments: argparse.Namespace, inputs: Tensors) -> Tensors:
    """Send row by row and join the answers. Raises RequestRefused for the first that failed."""
    rows = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    if len(rows) != 1 or 0 in rows:
        shapes = ", ".join(f"{name} {dims(array.shape)}" for name, array in inputs.items())
        raise UsageError(f"--stream sends row by row, but the inputs have other rows: {shapes}")
    answers = client.stream(
        model,
        (
            {name: array[row : row + 1] for name, array in inputs.items()}
            for row in range(rows.pop())
        ),
        outputs=arguments.output,
        version=arguments.version,
        deadline=arguments.deadline,
    )
    results: list[Tensors] = []
    for answer in answers:
        if answer.error is not None:
            raise RequestRefused(answer.error.code, f"row {answer.index}: {answer.error}")
        results.append(answer.outputs)
    return {name: _joined([result[name] for result in results]) for name in results[0]}


def _joined(arrays: list[Array]) -> Array:
    try:
        return np.concatenate(arrays)
    except ValueError as error:
        raise UsageError(f"--stream: the answers do not join to one array: {error}") from None


def _show(
    arguments: argparse.Namespace, metadata: ModelMetadataResponse, answer: Tensors, title: str
) -> None:
    specs = {spec.name: spec for spec in _specs(metadata.outputs)}
    if arguments.format == "npy":
        contents = as_npy(answer)
    elif arguments.format == "json":
        contents = (as_json(metadata.name, answer, specs) + "\n").encode()
    else:
        text = as_table(answer, specs, arguments.top, _labels(arguments.labels))
        contents = f"{title}\n{text}\n".encode()
    _write(arguments.out, contents)


def _write(path: str | None, contents: bytes) -> None:
    if not path:
        sys.stdout.buffer.write(contents)
        sys.stdout.buffer.flush()
        return
    try:
        Path(path).write_bytes(contents)
    except OSError as error:
        raise UsageError(f"--out {path}: cannot be written: {error.strerror}") from error


def _labels(path: str | None) -> list[str]:
    if not path:
        return []
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels {path}: cannot be read: {error}") from error
