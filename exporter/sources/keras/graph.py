"""A function of TensorFlow: traced with free axes, converted by tf2onnx, named as asked for.

tf2onnx writes opset 18 at most and names of its own (Identity:0, unk__6); both are mended.
"""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
import tensorflow as tf
import tf2onnx
from onnx import version_converter

from exporter.errors import ConversionFailed
from exporter.inputs import Inputs, check_names
from exporter.sources.base import Opened, Request
from exporter.sources.graph import apply_names, clean_name, number_names
from exporter.sources.user_code import innermost_line, line_in_text
from service.errors import listed
from service.tensors import Array, Tensors

_NEWEST_OPSET: Final = 18  # of tf2onnx
_IR_VERSION: Final = 10  # what torch writes; tf2onnx's is too old for its own opset
_COLOUR: Final = re.compile(r"\x1b\[[\d;]*m")

Function = Callable[..., list[tuple[str, Any]]]


@contextmanager
def opened_function(function: Function, inputs: Inputs, request: Request) -> Iterator[Opened]:
    """Trace a function of tensors that gives (name, tensor) pairs, and open it as a source.

    Raises ConversionFailed if it cannot be traced or converted.
    """
    specs = [
        tf.TensorSpec(
            [None if axis in item.axes else n for axis, n in enumerate(item.example.shape)],
            tf.as_dtype(item.example.dtype), name=item.name,
        )
        for item in inputs
    ]  # fmt: skip
    names: list[str] = []

    @tf.function(input_signature=specs)
    def traced(*tensors: Any) -> tuple[Any, ...]:
        found = function(*tensors)
        names[:] = [name for name, _ in found]
        return tuple(tf.identity(tensor) for _, tensor in found)

    try:
        traced.get_concrete_function()
    except Exception as error:  # whatever the model raises while it is traced
        raise ConversionFailed(_words(error)) from error
    outputs = request.output_names or tuple(clean_name(name) for name in names)
    if len(outputs) != len(names):
        raise ConversionFailed(
            f"{listed(outputs)} are to name the outputs {listed(names)}: give one name for each",
        )
    check_names("output", outputs)

    def run(tensors: Tensors) -> Sequence[Array]:
        return [np.asarray(t) for t in traced(*(tf.constant(tensors[i.name]) for i in inputs))]

    def convert() -> ir.Model:
        model: ir.Model = ir.from_proto(_converted(traced, specs, request.opset))
        _order_inputs(model, [item.name for item in inputs])
        number_names(model)
        apply_names(model, inputs, outputs)
        return model

    provenance = {"module": request.label, "tensorflow": tf.__version__}
    yield Opened(inputs, outputs, run, convert, request.opset, provenance)


def _converted(traced: Any, specs: Sequence[Any], opset: int) -> onnx.ModelProto:
    sink = StringIO()
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    try:
        with redirect_stdout(sink), redirect_stderr(sink):
            proto, _ = tf2onnx.convert.from_function(
                traced, input_signature=specs, opset=min(opset, _NEWEST_OPSET)
            )
    except Exception as error:  # whatever tf2onnx raises
        raise ConversionFailed(
            f"tf2onnx cannot convert the model: {_first_line(error)}\n  Leave the operator that "
            "it names to the caller of the model, or write it with other ones.",
        ) from error
    if opset > _NEWEST_OPSET:
        try:
            proto = version_converter.convert_version(proto, opset)
        except Exception as error:  # it raises what the C++ behind it raises
            raise ConversionFailed(
                f"the model cannot be brought from opset {_NEWEST_OPSET} to {opset}: "
                f"{_first_line(error)}; say --opset {_NEWEST_OPSET}",
            ) from error
    proto.ir_version = max(proto.ir_version, _IR_VERSION)
    return proto


def _order_inputs(model: ir.Model, names: Sequence[str]) -> None:
    """Put the inputs of the graph in the order of the signature; tf2onnx has its own."""
    by_name = {str(value.name).partition(":")[0]: value for value in model.graph.inputs}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise ConversionFailed(
            f"the model does not use its input(s) {listed(missing)}: leave them out",
        )
    model.graph.inputs[:] = [by_name[name] for name in names]


def _words(error: Exception) -> str:
    text = _first_line(error)
    line = innermost_line(error) or line_in_text(str(error))
    where = f"\n  at {line}" if line else ""
    if "symbolic `tf.Tensor`" in str(error) or "OperatorNotAllowedInGraph" in type(error).__name__:
        return (
            f"the model decides by the value of a tensor: {text}{where}\n  Use tf.where or "
            "tf.cond, or decide outside of the model."
        )
    return (
        f"the model cannot be traced with its free axes: {type(error).__name__}: {text}{where}\n"
        "  Does it take a batch of any size?"
    )


def _first_line(error: BaseException) -> str:
    """Return what went wrong: the last line, before what Keras adds of the arguments."""
    text = _COLOUR.sub("", str(error)).partition("Arguments received by")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
