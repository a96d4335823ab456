"""TorchScript, live or in a file: converted by torch's older exporter, the only one that takes it.

Scripted branches and loops stay branches and loops. A TorchScript file is a program: it is loaded
only if the user trusts it.
"""

import inspect
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
import torch

from exporter.errors import ConversionFailed, UnsafeArtefact, UsageError, in_one_line
from exporter.inputs import Inputs, make_inputs
from exporter.sources.base import Opened, Request
from exporter.sources.graph import apply_names
from exporter.sources.pytorch.arguments import bind
from exporter.sources.pytorch.capture import quiet, tensors_on
from exporter.sources.pytorch.evaluation import evaluating
from exporter.sources.pytorch.module import need_examples, try_example
from exporter.sources.pytorch.outputs import flatten, name_outputs, to_array
from exporter.sources.pytorch.translate import explain, explain_failure
from exporter.sources.pytorch.weights import digest, refuse_nan
from service.tensors import Array, Tensors

_NEWEST_OPSET: Final = 20  # of the older exporter; it writes no later one


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Hold the program in eval mode. Raises UsageError, WeightsError or ConversionFailed."""
    script = request.source
    if request.opset > _NEWEST_OPSET:
        raise UsageError(
            f"opset {request.opset} was asked for, but TorchScript can be written in opset "
            f"{_NEWEST_OPSET} at most: say --opset {_NEWEST_OPSET}",
        )
    examples = need_examples(request)
    signature = _signature(script)
    arguments, arrays = bind(script, examples, request.input_names, signature)
    inputs = make_inputs(
        arrays, batch=request.batch, dynamic_axes=request.dynamic_axes, ranges=request.ranges
    )
    refuse_nan(script.state_dict())
    opset = request.opset
    with evaluating(script):
        returned = try_example(script, arguments, [item.example for item in inputs])
        outputs = name_outputs(returned, arguments.names, request.output_names)

        def run(tensors: Tensors) -> Sequence[Array]:
            arrays = [tensors[name] for name in arguments.names]
            found = arguments.call(script, tensors_on(script, arrays))
            return [to_array(tensor) for _, tensor in flatten(found)]

        def convert() -> ir.Model:
            model = _convert(script, inputs, outputs, opset)
            apply_names(model, inputs, outputs)
            return model

        label = request.label or "torch.jit.ScriptModule"
        provenance = {"module": label, "weights_sha256": digest(script)}
        yield Opened(inputs, outputs, run, convert, opset, provenance, explain=explain_failure)


def load(path: Path, *, is_trusted: bool) -> Any:
    """Load a TorchScript file. Raises UnsafeArtefact unless it is trusted: it is a program."""
    if not is_trusted:
        raise UnsafeArtefact(
            f"{path}: refused: a TorchScript program, which is code and runs when it is proved. It "
            "was not loaded. If you made it, or trust who did, say --trust-pickle "
            "(trust_pickle=True); or export the module that it was made from: FILE.py:BUILDER",
        )
    try:
        return torch.jit.load(str(path), map_location="cpu")
    except Exception as error:  # it reads a file that may hold anything
        raise ConversionFailed(
            f"{path}: torch cannot load this program: {in_one_line(error)}"
        ) from error


def open_file(path: Path, request: Request) -> Request:
    """Return the request with the program of the file as its source."""
    return replace(request, source=load(path, is_trusted=request.trust_pickle))


def _convert(script: Any, inputs: Inputs, outputs: Sequence[str], opset: int) -> ir.Model:
    buffer = io.BytesIO()
    tensors = tuple(tensors_on(script, [item.example for item in inputs]))
    try:
        with quiet():
            torch.onnx.export(
                script, tensors, buffer, dynamo=False, opset_version=opset,
                input_names=[item.name for item in inputs], output_names=list(outputs),
                dynamic_axes={item.name: dict(item.axes) for item in inputs if item.axes},
            )  # fmt: skip
    except Exception as error:  # whatever the exporter or the program raises
        raise ConversionFailed(explain(error, inputs, [])) from error
    model: ir.Model = ir.from_proto(onnx.load_from_string(buffer.getvalue()))
    return model


def _signature(script: Any) -> inspect.Signature:
    """Return the signature of forward, which only TorchScript itself knows."""
    parameters = [
        inspect.Parameter(
            argument.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=argument.default_value
            if argument.has_default_value()
            else inspect.Parameter.empty,
        )
        for argument in script.forward.schema.arguments[1:]
    ]
    return inspect.Signature(parameters)
