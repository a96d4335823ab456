"""Quantisation-aware training: the module learns with the rounding that int8 will bring.

    from exporter import export, qat

    quantised = qat.train_quantised(module, example, train=fine_tune, evaluate=accuracy)
    export(quantised.module, example, name="digits", repository="models", tolerance=qat.TOLERANCE)

What is exported is a graph of QuantizeLinear and DequantizeLinear (U8 activations, S8 weights, one
scale a channel) that ONNX Runtime runs in int8. It is worth its time where static quantisation of
the trained model (`--quantize int8-static`) loses too much; try that first.
"""

import copy
import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from exporter.errors import CompressionFailed, UsageError
from exporter.inputs import BATCH, DynamicAxes
from exporter.silence import silent
from service.repository.manifest import Tolerance

# A value that lies on the border of two steps may be rounded to either; 1/255 of a range is a step.
TOLERANCE: Final = Tolerance(relative=2e-2, absolute=1e-4)

Train: TypeAlias = Callable[[nn.Module], None]
Metric: TypeAlias = Callable[[nn.Module], float]


@dataclass(frozen=True, slots=True)
class Quantised:
    """A module that computes in int8. metric: the user's, of the original and of this one."""

    module: nn.Module
    quantised_layers: int
    metric: tuple[float | None, float | None] = (None, None)


class QuantisedModule(nn.Module):
    """A captured graph that is called as the module was that it came from."""

    def __init__(self, graph: nn.Module, signature: inspect.Signature) -> None:
        super().__init__()
        self.body = graph

        def forward(*args: Any, **kwargs: Any) -> Any:
            return graph(**signature.bind(*args, **kwargs).arguments)

        # The exporter names inputs after the arguments of forward.
        forward.__signature__ = signature  # type: ignore[attr-defined]
        self.forward = forward


def train_quantised(
    module: nn.Module,
    example_inputs: Any,
    *,
    train: Train,
    evaluate: Metric | None = None,
    dynamic_axes: DynamicAxes | None = None,
) -> Quantised:
    """Fine-tune a copy of a module with int8 rounding in it, and return it quantised.

    example_inputs: one tensor, several in the order of forward's arguments, or by name; at least
    two rows, because axis 0 is the batch. train: trains what it gets, in place; that is called as
    the module is. A few epochs at a tenth of the learning rate are enough. evaluate: a metric,
    higher is better. dynamic_axes: axes besides the batch that may have any size, by argument.

    Raises UsageError without torchao or where the inputs do not fit, CompressionFailed if the
    module cannot be captured or nothing in it can be quantised.
    """
    backend = _backend()
    signature = inspect.signature(module.forward)
    inputs = _named(signature, example_inputs)
    before = evaluate(module) if evaluate else None
    with silent(logging.WARNING):  # torchao speaks of its own future
        captured = _capture(copy.deepcopy(module).train(), inputs, dynamic_axes or {})
        quantizer = backend.quantizer()
        quantizer.set_global(backend.configuration(is_qat=True))
        prepared = backend.prepare(captured, quantizer)
        backend.allow_modes(prepared)
    student = QuantisedModule(prepared, signature).train()
    train(student)
    with silent(logging.WARNING):
        backend.to_eval(prepared)
        converted = backend.convert(prepared)
        backend.allow_modes(converted)
    layers = sum("quantize_per_channel" in str(node.target) for node in converted.graph.nodes)
    if not layers:
        raise CompressionFailed(
            "quantisation-aware training changed nothing: the module has no linear layer and no "
            "convolution that int8 applies to",
        )
    quantised = QuantisedModule(converted, signature).eval()
    after = evaluate(quantised) if evaluate else None
    return Quantised(quantised, layers, (before, after))


@dataclass(frozen=True, slots=True)
class _Backend:
    """What of torchao is used: its PT2E flow, with the rules of x86."""

    quantizer: Any
    configuration: Any
    prepare: Any
    convert: Any
    allow_modes: Any
    to_eval: Any


def _backend() -> _Backend:
    try:
        with silent(logging.WARNING):
            from torchao.quantization.pt2e import (  # noqa: PLC0415 (an extra)
                allow_exported_model_train_eval,
                move_exported_model_to_eval,
            )
            from torchao.quantization.pt2e.quantize_pt2e import (  # noqa: PLC0415
                convert_pt2e,
                prepare_qat_pt2e,
            )
            from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (  # noqa: PLC0415
                X86InductorQuantizer,
                get_default_x86_inductor_quantization_config,
            )
    except ImportError as error:
        raise UsageError(
            f"quantisation-aware training needs torchao ({error}): pip install 'penstock[qat]'",
        ) from error
    return _Backend(
        X86InductorQuantizer, get_default_x86_inductor_quantization_config, prepare_qat_pt2e,
        convert_pt2e, allow_exported_model_train_eval, move_exported_model_to_eval,
    )  # fmt: skip


def _named(signature: inspect.Signature, examples: Any) -> dict[str, torch.Tensor]:
    try:
        if isinstance(examples, Mapping):
            bound = signature.bind(**examples)
        elif isinstance(examples, tuple | list):
            bound = signature.bind(*examples)
        else:
            bound = signature.bind(examples)
    except TypeError as error:
        raise UsageError(f"the example inputs do not fit forward{signature}: {error}") from None
    inputs = dict(bound.arguments)
    for name, value in inputs.items():
        if not isinstance(value, torch.Tensor) or value.dim() == 0 or value.shape[0] < 2:
            raise UsageError(
                f"example input '{name}' must be a tensor with the batch along axis 0 and at "
                "least two rows, or torch takes the batch for fixed",
            )
    return inputs


def _capture(module: nn.Module, inputs: Mapping[str, torch.Tensor], axes: DynamicAxes) -> nn.Module:
    free = torch.export.Dim.DYNAMIC
    shapes = {
        name: {axis: free for axis in (0, *axes.get(name, {}))}  # noqa: C420 (one value, many axes)
        for name in inputs
    }
    try:
        captured: nn.Module = torch.export.export(
            module, (), dict(inputs), dynamic_shapes=shapes, strict=False
        ).module()
    except Exception as error:  # any error of the user's forward passes through torch
        raise CompressionFailed(
            f"the module cannot be captured with a free {BATCH}: {type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}",
        ) from error
    return captured
