"""Checks of the written file: the ONNX standard, and that it says what was asked for."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from exporter.cases import Case
from exporter.errors import ConversionFailed, described
from exporter.flow import Converted
from exporter.inputs import Inputs
from exporter.session import Session
from service.repository.manifest import MODEL_FILE
from service.repository.signature import Graph, GraphTensor
from service.tensors import TensorSpec


def check_file(path: Path) -> None:
    """Check the file against the ONNX standard, shapes and types included.

    By path: external data, and models above 2 GB, cannot be checked in memory.
    Raises ConversionFailed.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionFailed(f"the exported {MODEL_FILE} is not valid ONNX: {error}") from error


def check_graph(converted: Converted) -> None:
    """Compare opset and names of free axes in the file with those that were asked for.

    Raises ConversionFailed: a wish for an opset is forgotten silently, and an axis without its
    name is not the batch to any server.
    """
    model = onnx.load(str(converted.model), load_external_data=False)
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if opsets and opsets != [converted.opset]:
        raise ConversionFailed(
            f"opset {converted.opset} was expected, but the file says {opsets}",
        )
    by_name = {value.name: value for value in model.graph.input}
    for item in converted.inputs:
        dims = by_name[item.name].type.tensor_type.shape.dim if item.name in by_name else ()
        for axis, name in item.axes.items():
            if axis < len(dims) and dims[axis].dim_param != name:
                got = dims[axis].dim_param or str(dims[axis].dim_value or "nothing")
                raise ConversionFailed(
                    f"axis {axis} of input '{item.name}' should be free and called '{name}', but "
                    f"the file says {got}: the model fixes it, or its converter renamed it",
                )


def check_signature(
    session: Session, inputs: Inputs, output_names: Sequence[str], cases: Sequence[Case]
) -> None:
    """Compare names, order, types and shapes of the file with those that were asked for.

    Raises ConversionFailed: converters rename, drop and pin without a word.
    """
    wanted = [i.name for i in inputs]
    if [spec.name for spec in session.inputs] != wanted:
        raise _drift("inputs", ", ".join(wanted), session.inputs)
    if [spec.name for spec in session.outputs] != list(output_names):
        raise _drift("outputs", ", ".join(output_names), session.outputs)
    for item, spec in zip(inputs, session.inputs, strict=True):
        shape = tuple(
            -1 if axis in item.axes else extent for axis, extent in enumerate(item.example.shape)
        )
        expected = TensorSpec(item.name, item.datatype, shape)
        if spec != expected:
            raise _drift("input", described([expected]), [spec])
    for spec in session.outputs:
        for case in cases:
            if not spec.admits(case.outputs[spec.name].shape):
                raise _drift("output", str(list(case.outputs[spec.name].shape)), [spec])


def served_signature(
    path: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    defaults: Sequence[TensorSpec] = (),
) -> Graph:
    """Return inputs and outputs of a file as a server sees them: free axes by their names.

    defaults: inputs that have a value of their own.
    """
    model = onnx.load(str(path), load_external_data=False)
    names = {
        value.name: [dim.dim_param or None for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }

    def tensor(spec: TensorSpec) -> GraphTensor:
        free = names.get(spec.name, [])
        shape = tuple(
            extent if extent >= 0 else (free[axis] if axis < len(free) else None)
            for axis, extent in enumerate(spec.shape)
        )
        return GraphTensor(spec.name, spec.datatype, shape, spec.optional)

    return Graph(
        tuple(tensor(spec) for spec in inputs),
        tuple(tensor(spec) for spec in outputs),
        tuple(replace(tensor(spec), optional=True) for spec in defaults),
    )


def _drift(kind: str, wanted: str, got: Sequence[TensorSpec]) -> ConversionFailed:
    return ConversionFailed(f"{kind} {wanted} expected, but the file has {described(got)}")
