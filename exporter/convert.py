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

from exporter.errors import ConversionFailed
from exporter.guards import Guard, recorded_guards
from exporter.inputs import Inputs, arrange
from exporter.translate import explain

_NOISY: Final = ("torch", "torch.onnx", "torch.fx", "torch.export", "torch._dynamo", "onnxscript")


def convert(
    module: torch.nn.Module, inputs: Inputs, output_names: Sequence[str], opset: int
) -> torch.onnx.ONNXProgram:
    """Return the module as an ONNX program with the names that were asked for.

    The module must be in eval mode. Raises ConversionFailed with the cause, the line of the
    user's code and a way out.
    """
    positional, keywords = arrange(inputs, [item.example for item in inputs])
    guards: list[Guard] = []
    try:
        with _quiet(), recorded_guards() as guards:
            program = torch.onnx.export(
                module,
                positional,
                kwargs=keywords,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[item.name for item in inputs],
                output_names=list(output_names),
                dynamic_shapes=_dynamic_shapes(inputs),
            )
    except Exception as error:  # any error of the user's forward passes through torch
        raise ConversionFailed(explain(error, inputs, guards)) from error
    if program is None:
        raise ConversionFailed("torch.onnx.export returned no program")
    _check_opset(program, opset)
    return program


def _dynamic_shapes(inputs: Inputs) -> dict[str, Any]:
    """Return the free axes by argument of forward; those of *args as one tuple."""
    shapes: dict[str, Any] = {}
    for item in inputs:
        if item.index is None:
            shapes[item.argument] = dict(item.axes)
        else:
            shapes[item.argument] = (*shapes.get(item.argument, ()), dict(item.axes))
    return shapes


def _check_opset(program: torch.onnx.ONNXProgram, opset: int) -> None:
    got = program.model.opset_imports.get("")
    if got != opset:
        raise ConversionFailed(
            f"opset {opset} was asked for, but torch wrote opset {got}: it cannot express this "
            f"module in opset {opset}; take --opset {got}, or 20, the default",
        )


@contextmanager
def _quiet() -> Iterator[None]:
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
