"""Small edits of ONNX graphs: names of values, and where nodes go."""

from collections.abc import Sequence

import onnx

from exporter.variants.graph import nodes_of


def extents(value: onnx.ValueInfoProto) -> list[int | str | None]:
    """Return the extents of a value: a number, the name of a free one, None for a nameless one."""
    return [
        dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in value.type.tensor_type.shape.dim
    ]


def rename_value(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a value wherever nodes read or write it; the graph's own signature stays."""
    for node in nodes_of(graph):
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for inner in _inner_graphs(graph):
        for value in inner.output:
            if value.name == old:
                value.name = new


def _inner_graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    return [
        inner
        for node in nodes_of(graph)
        for attribute in node.attribute
        for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs)
    ]


def put_first(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put nodes before all others."""
    rest = [*graph.node]
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def free_name(graph: onnx.GraphProto, wanted: str) -> str:
    """Return a name that no value of the graph has."""
    taken = {name for node in nodes_of(graph) for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in graph.initializer}
    taken |= {value.name for value in (*graph.input, *graph.output)}
    name, count = wanted, 1
    while name in taken:
        name, count = f"{wanted}.{count}", count + 1
    return name
