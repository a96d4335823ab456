"""A PyTorch module, live or built by the user's code: captured by torch.export."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from exporter.errors import ConversionFailed, UsageError
from exporter.inputs import make_inputs
from exporter.pruning_masks import described, fold_masks, without_masks
from exporter.sources.base import Opened, Request
from exporter.sources.pytorch.arguments import Arguments, bind
from exporter.sources.pytorch.capture import capture, tensors_on
from exporter.sources.pytorch.evaluation import evaluating
from exporter.sources.pytorch.outputs import flatten, name_outputs, to_array
from exporter.sources.pytorch.translate import explain_failure
from exporter.sources.pytorch.weights import digest, fit, load_weights, refuse_nan
from exporter.sources.user_code import line_of
from service.tensors import Array, Tensors

if TYPE_CHECKING:
    import onnx_ir as ir


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Hold the module in eval mode and leave it as it was.

    Raises UsageError, WeightsError, UnsafeArtefact or ConversionFailed.
    """
    module = getattr(request.source, "_orig_mod", request.source)  # of torch.compile
    module, zeros = without_masks(module)
    if request.weights is not None:
        fit(module, fold_masks(load_weights(request.weights, request.allow_globals)))
    arguments, examples = bind(module, need_examples(request), request.input_names)
    inputs = make_inputs(
        examples, batch=request.batch, dynamic_axes=request.dynamic_axes, ranges=request.ranges
    )
    refuse_nan(module.state_dict())
    with evaluating(module):
        returned = try_example(module, arguments, [item.example for item in inputs])
        outputs = _named(module, returned, arguments.names, request.output_names)

        def run(tensors: Tensors) -> Sequence[Array]:
            arrays = [tensors[name] for name in arguments.names]
            found = arguments.call(module, tensors_on(module, arrays))
            return [to_array(tensor) for _, tensor in flatten(found)]

        def convert() -> "ir.Model":
            program = capture(module, arguments, inputs, outputs, request.opset)
            model: ir.Model = program.model
            return model

        label = request.label or f"{type(module).__module__}:{type(module).__qualname__}"
        provenance = {"module": label, "weights_sha256": digest(module)}
        if zeros:
            provenance["pruning_masks"] = described(zeros)
        yield Opened(
            inputs, outputs, run, convert, request.opset, provenance, explain=explain_failure
        )


def need_examples(request: Request) -> Any:
    """Return the example inputs; raise UsageError if there are none."""
    if request.examples is None:
        raise UsageError(
            "no example inputs: say what forward takes, as in "
            "--input 'image:float32[batch,784]', give arrays with --sample FILE.npz, or "
            "define example_inputs() in the module of SOURCE",
        )
    return request.examples


def try_example(module: torch.nn.Module, arguments: Arguments, examples: Sequence[Array]) -> Any:
    """Return what forward makes of the example; raise ConversionFailed if it fails."""
    try:
        return arguments.call(module, tensors_on(module, [array.copy() for array in examples]))
    except Exception as error:  # whatever forward raises
        way_out = "Do the example inputs have the shape and type that forward expects?"
        situation = "with the example inputs"
        raise ConversionFailed(explain_failure(error, situation, way_out)) from error


def _named(
    module: torch.nn.Module,
    returned: Any,
    input_names: Sequence[str],
    names: Sequence[str] | None,
) -> tuple[str, ...]:
    """Return the names of the outputs; say where forward returns what cannot be one."""
    try:
        return name_outputs(returned, input_names, names)
    except ConversionFailed as error:
        line = line_of(type(module).forward, r"\breturn\b")
        raise ConversionFailed(f"{error}\n  at {line}" if line else str(error)) from error
