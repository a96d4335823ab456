"""Conversion: torch.export captures the module, torch.onnx.export writes it in ONNX.

Free axes are given as strings: those raise when the module fixes the axis, where `Dim("n")`
would silently pin it and `Dim.AUTO` would declare an axis free that is not.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, Final

import torch
from torch.utils import _pytree as pytree

from exporter.errors import ConversionFailed
from exporter.inputs import Inputs
from exporter.sources.pytorch.arguments import Arguments
from exporter.sources.pytorch.guards import Guard, recorded_guards
from exporter.sources.pytorch.translate import explain
from service.tensors import Array

_NOISY: Final = ("torch", "torch.onnx", "torch.fx", "torch.export", "torch._dynamo", "onnxscript")


def capture(
    module: torch.nn.Module,
    arguments: Arguments,
    inputs: Inputs,
    output_names: Sequence[str],
    opset: int,
) -> torch.onnx.ONNXProgram:
    """Return the module as an ONNX program with the names that were asked for.

    The module must be in eval mode. Raises ConversionFailed with the cause, the line of the
    user's code and a way out.
    """
    positional, keywords = arguments.arrange(tensors_on(module, [i.example for i in inputs]))
    guards: list[Guard] = []
    _forget_dispatch()
    try:
        with quiet(), recorded_guards() as guards:
            program = torch.onnx.export(
                module,
                positional,
                kwargs=keywords,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[item.name for item in inputs],
                output_names=list(output_names),
                dynamic_shapes=arguments.free_axes(inputs),
            )
    except Exception as error:  # any error of the user's forward passes through torch
        shapes = arguments.free_axes(inputs)

        def locate(operator: str) -> str:
            return _trace_of(operator, module, positional, keywords, shapes)

        raise ConversionFailed(explain(error, inputs, guards, locate)) from error
    if program is None:
        raise ConversionFailed("torch.onnx.export returned no program")
    check_opset(program, opset)
    return program


def _forget_dispatch() -> None:
    """Let torch look up anew how it traces each operator.

    What decomposing a program leaves in that cache of the process is wrong for the next capture: a
    second GRU was unrolled in Python over the steps of its example, which fixed their number.
    """
    for operator in torch._decomp.decomposition_table:  # noqa: SLF001  there is no public way
        if isinstance(operator, torch._ops.OpOverload):  # noqa: SLF001
            operator._dispatch_cache.clear()  # noqa: SLF001


def tensors_on(module: torch.nn.Module, arrays: Sequence[Array]) -> list[torch.Tensor]:
    """Return arrays as tensors where the module has its weights."""
    weight = next(module.parameters(), None)
    device = torch.device("cpu") if weight is None else weight.device
    return [torch.from_numpy(array).to(device) for array in arrays]


def _trace_of(
    operator: str,
    module: torch.nn.Module,
    positional: tuple[Any, ...],
    keywords: dict[str, Any],
    shapes: dict[str, Any],
) -> str:
    """Return the lines that led to an operator, as torch notes them; "" if it cannot be found.

    torch says which operator it could not write, but not where it stands: it is captured again.
    """
    free = pytree.tree_map_only(str, lambda _name: torch.export.Dim.DYNAMIC, shapes)
    try:
        with quiet():
            program = torch.export.export(module, positional, keywords, dynamic_shapes=free)
            nodes = program.run_decompositions().graph.nodes
    except Exception:  # noqa: BLE001 (it only adds a line to the message of another error)
        return ""
    names = {operator, operator.rpartition("::")[2].partition(".")[0]}
    traces = [
        str(node.meta.get("stack_trace", ""))
        for node in nodes
        if node.name in names or operator in str(node.target)
    ]
    return traces[0] if traces else ""


def check_opset(program: torch.onnx.ONNXProgram, opset: int) -> None:
    """Raise ConversionFailed if torch wrote another opset than it was asked for."""
    got = program.model.opset_imports.get("")
    if got != opset:
        raise ConversionFailed(
            f"opset {opset} was asked for, but torch wrote opset {got}: it cannot express this "
            f"module in opset {opset}; take --opset {got}, or 20, the default",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch says while it converts: nothing there is for the user to act on."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    sink = io.StringIO()  # some of it is printed, past every logger
    with warnings.catch_warnings(), redirect_stdout(sink), redirect_stderr(sink):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
