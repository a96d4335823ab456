"""Graphs that come with names and axes of their own: read them, and give them ours.

Knows onnx_ir and numpy; knows no framework.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import onnx_ir as ir

from exporter.errors import ConversionFailed, UsageError
from exporter.inputs import BATCH, Inputs, make_inputs
from exporter.masks import convention_of, random_mask
from exporter.sources.base import Request
from service.errors import dims, listed
from service.tensors import BYTES, DATATYPES, Array, Tensors

Shape: TypeAlias = Sequence[int | str | None]  # a name or None where the extent is free

_EXAMPLE_ROWS: Final = 2
_FREE_SIZES: Final = (5, 7, 11, 13)  # distinct, so that equal sizes are not merged by chance
_AXIS_NAME: Final = re.compile(r"[A-Za-z_]\w{0,63}")
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.\-]")


def clean_name(name: str) -> str:
    """Return a name that a tensor may have, near to that of the graph: Identity:0 is Identity_0."""
    cleaned = _NOT_IN_NAMES.sub("_", name)[:128]
    return cleaned if re.match("[A-Za-z_]", cleaned) else f"_{cleaned}"[:128]


def planned_inputs(
    shapes: Mapping[str, Shape],
    dtypes: Mapping[str, np.dtype],
    request: Request,
    way_out: str,
) -> Inputs:
    """Return the inputs that a source declares, under the names that were asked for.

    shapes, dtypes: by the source's own names, in order. way_out: how its framework leaves the
    batch free. Free axes are the declared ones and the request's; examples are the request's, and
    made up where it has none. Raises UsageError where they do not fit each other.
    """
    names = list(request.input_names or [clean_name(name) for name in shapes])
    if len(names) != len(shapes):
        raise UsageError(f"{listed(names)} are to name the inputs {listed(list(shapes))}")
    ours = dict(zip(names, shapes.values(), strict=True))
    types = dict(zip(names, dtypes.values(), strict=True))
    axes = {**free_axes(ours, batch=request.batch, way_out=way_out), **request.dynamic_axes}
    examples = examples_for(ours, types, axes, batch=request.batch, seed=request.seed)
    given = request.examples
    if given is not None and not isinstance(given, Mapping):
        values = given if isinstance(given, list | tuple) else [given]
        given = dict(zip(names, values, strict=False))
    for name, value in (given or {}).items():
        if name not in examples:
            raise UsageError(f"an example of '{name}', but the inputs are {listed(names)}")
        examples[name] = _fitting(name, np.asarray(value), ours[name], types[name])
    return make_inputs(examples, batch=request.batch, dynamic_axes=axes, ranges=request.ranges)


def free_axes(
    shapes: Mapping[str, Shape], *, batch: bool, way_out: str
) -> dict[str, dict[int, str]]:
    """Return the free axes by input and axis: those that the graph gives no number.

    batch: the axis that bears the name of axis 0 of the others, else axis 0, is the batch and must
    be free in every input; axis 0 is not counted among the axes then.
    way_out: how its framework leaves it free, for the message.
    """
    found: dict[str, dict[int, str]] = {}
    names = {shape[0] for shape in shapes.values() if shape and isinstance(shape[0], str)}
    for name, shape in shapes.items():
        free = {
            axis: extent if isinstance(extent, str) and _AXIS_NAME.fullmatch(extent)
            else f"{name}_{axis}"
            for axis, extent in enumerate(shape) if not isinstance(extent, int)
        }  # fmt: skip
        elsewhere = [axis for axis, extent in enumerate(shape) if axis and {extent} == names]
        if batch and 0 not in free and len(elsewhere) == 1:
            free[elsewhere[0]] = BATCH
        elif batch and 0 not in free:
            raise UsageError(
                f"input '{name}' has the fixed shape {dims([_number(e) for e in shape])}: its axis "
                f"0 cannot be a batch of any size. {way_out}, or say --no-batch (batch=False)",
            )
        elif batch:
            del free[0]
        found[name] = free
    return found


def examples_for(
    shapes: Mapping[str, Shape],
    dtypes: Mapping[str, np.dtype],
    axes: Mapping[str, Mapping[int, str]],
    *,
    batch: bool,
    seed: int,
) -> Tensors:
    """Return seeded data that fits the shapes: floats from -1 to 1, integers 0 or 1.

    Axes of the same name have the same size; the batch has two rows.
    """
    random = np.random.default_rng(seed)
    sizes: dict[str, int] = {BATCH: _EXAMPLE_ROWS}
    examples = {}
    for name, shape in shapes.items():
        free = dict(axes.get(name, {}))
        if batch and BATCH not in free.values():
            free[0] = BATCH
        extents = [
            sizes.setdefault(free[axis], _FREE_SIZES[(len(sizes) - 1) % len(_FREE_SIZES)])
            if axis in free
            else _number(extent) or 1
            for axis, extent in enumerate(shape)
        ]
        convention = convention_of(name, len(extents))
        examples[name] = (
            _data(dtypes[name], extents, random)
            if convention is None
            else random_mask(convention, extents, random).astype(dtypes[name])
        )
    return examples


def apply_names(model: ir.Model, inputs: Inputs, outputs: Sequence[str]) -> None:
    """Give the inputs and outputs of a graph these names, in order, and the inputs their axes."""
    graph = model.graph
    if len(graph.inputs) != len(inputs) or len(graph.outputs) != len(outputs):
        raise ConversionFailed(
            f"the graph has inputs {listed([str(v.name) for v in graph.inputs])} and outputs "
            f"{listed([str(v.name) for v in graph.outputs])}; {listed([i.name for i in inputs])} "
            f"and {listed(outputs)} were expected",
        )
    wanted = [*(item.name for item in inputs), *outputs]
    ends = [*graph.inputs, *graph.outputs]
    _give_way(model, set(wanted), {id(value) for value in ends})
    for value, name in zip(ends, wanted, strict=True):
        value.name = name
    for value, item in zip(graph.inputs, inputs, strict=True):
        value.shape = ir.Shape(
            [item.axes.get(axis, extent) for axis, extent in enumerate(item.example.shape)],
        )


def number_names(model: ir.Model) -> None:
    """Name nodes and inner values by number, and put weights in the order of their first use.

    Some converters put random identifiers into names, and weights in the order of a set: equal
    models gave other bytes.
    """
    graphs = [model.graph, *model.graph.subgraphs()]
    kept = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    inner: list[ir.Value] = []
    for graph in graphs:
        inner += [*_in_order_of_use(graph), *(graph.inputs if graph is not model.graph else ())]
    for number, node in enumerate(model.graph.all_nodes()):
        node.name = f"{node.op_type}_{number}"
        inner += node.outputs
    for number, value in enumerate(inner):
        # Absent outputs have no name, and must not get one.
        if value.name and id(value) not in kept:
            value.name = f"value_{number}"
    for number, graph in enumerate(graphs[1:]):
        graph.name = f"graph_{number}"
    for graph in graphs:
        weights = _in_order_of_use(graph)
        graph.initializers.clear()
        for weight in weights:
            graph.register_initializer(weight)


def _in_order_of_use(graph: ir.Graph) -> list[ir.Value]:
    """Return the weights of a graph as its nodes, and those in its branches, first need them."""
    own = {id(value) for value in graph.initializers.values()}
    used = {
        id(value): value
        for node in graph.all_nodes()
        for value in node.inputs
        if value is not None and id(value) in own
    }
    unused = [v for _, v in sorted(graph.initializers.items()) if id(v) not in used]
    return [*used.values(), *unused]


def numpy_types(values: Sequence[ir.Value]) -> dict[str, np.dtype]:
    """Return the numpy type of each value by name; raise UsageError for what no request carries."""
    known = {datatype.numpy for datatype in DATATYPES if datatype is not BYTES}
    types = {}
    for value in values:
        if not isinstance(value.type, ir.TensorType):
            raise ConversionFailed(
                f"'{value.name}' is no tensor ({value.type}), and inference requests carry "
                "nothing else",
            )
        if value.type.dtype == ir.DataType.STRING or value.type.dtype.numpy() not in known:
            raise UsageError(
                f"'{value.name}' is of type {value.type.dtype.name}; the exporter cannot prove "
                "such a model: give it numbers (tokens, indices) instead",
            )
        types[str(value.name)] = value.type.dtype.numpy()
    return types


def _fitting(name: str, example: Array, shape: Shape, dtype: np.dtype) -> Array:
    """Return an example in the type of its input; raise UsageError if its shape is another."""
    if len(example.shape) != len(shape) or any(
        isinstance(wanted, int) and wanted != got
        for wanted, got in zip(shape, example.shape, strict=True)
    ):
        raise UsageError(
            f"the example of '{name}' has shape {dims(example.shape)}, but the model takes "
            f"{dims([_number(extent) for extent in shape])}",
        )
    return example.astype(dtype)


def _give_way(model: ir.Model, names: set[str], keep: set[int]) -> None:
    """Rename inner values that have a name which an input or output is to have."""
    graph = model.graph
    inner = [*graph.initializers.values(), *(v for node in graph.all_nodes() for v in node.outputs)]
    taken = {value.name for value in inner} | names
    for value in inner:
        if value.name in names and id(value) not in keep:
            number = next(n for n in itertools.count() if f"{value.name}_{n}" not in taken)
            value.name = f"{value.name}_{number}"
            taken.add(value.name)


def _number(extent: int | str | None) -> int | None:
    return extent if isinstance(extent, int) else None


def _data(dtype: np.dtype, extents: Sequence[int], random: np.random.Generator) -> Array:
    if dtype.kind == "f":
        return np.asarray(random.uniform(-1, 1, extents)).astype(dtype)
    return np.asarray(random.integers(0, 2, extents)).astype(dtype)
