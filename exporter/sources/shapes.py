"""Declared shapes of outputs, corrected by what the module really returned.

torch may declare an extent that only held for the example ([batch, 7, 64] for any length); ONNX
Runtime only warns of it, clients trust it.
"""

from collections.abc import Sequence

import onnx_ir as ir

from exporter.cases import Case
from exporter.errors import ConversionFailed
from exporter.inputs import BATCH, Inputs
from service.errors import dims


def correct_outputs(model: ir.Model, inputs: Inputs, cases: Sequence[Case]) -> None:
    """Give every output the shape that fits all cases, in place.

    An extent that varied becomes free; it takes the name of the input's axis whose extent it
    always had. If the inputs have a batch, it is axis 0, or that which the cases say.
    Raises ConversionFailed if an output has no batch axis though the inputs have.
    """
    for output in model.graph.outputs:
        name = str(output.name)
        seen = [case.outputs[name].shape for case in cases]
        ranks = {len(shape) for shape in seen}
        if len(ranks) != 1:
            raise ConversionFailed(
                f"output '{name}' has {' or '.join(map(str, sorted(ranks)))} axes, depending on "
                "the size of the inputs; a signature needs one number of axes",
            )
        if cases[0].rows:
            _check_batch(name, cases, seen)
        batch = cases[0].batch_axes.get(name, 0) if cases[0].rows else None
        declared = output.shape if output.shape is not None else [None] * ranks.pop()
        output.shape = ir.Shape(
            [
                BATCH
                if axis == batch
                else _extent(extent, [shape[axis] for shape in seen], inputs, cases)
                for axis, extent in enumerate(declared)
            ],
        )


def _check_batch(name: str, cases: Sequence[Case], seen: Sequence[tuple[int, ...]]) -> None:
    batch = cases[0].batch_axes.get(name, 0)
    if all(
        shape[batch : batch + 1] == (case.rows,) for case, shape in zip(cases, seen, strict=True)
    ):
        return
    observed = ", ".join(
        f"batch {case.rows}: {dims(shape)}" for case, shape in zip(cases, seen, strict=True)
    )
    raise ConversionFailed(
        f"output '{name}' has no batch axis ({observed}). Every output needs one row for each row "
        f"of the inputs: keep axis {batch}, or say --no-batch (batch=False) for a model of a fixed "
        "shape",
    )


def _extent(
    declared: int | ir.SymbolicDim | None,
    seen: Sequence[int],
    inputs: Inputs,
    cases: Sequence[Case],
) -> int | str | None:
    for item in inputs:
        for free, name in item.axes.items():
            if [case.inputs[item.name].shape[free] for case in cases] == list(seen):
                return name
    if len(set(seen)) > 1:
        return None
    return declared if isinstance(declared, int) else getattr(declared, "value", None)
