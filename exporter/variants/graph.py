"""ONNX graphs as the quantisers need them: facts, and Gemm as MatMul. Knows onnx, no runtime."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import external_data_helper, numpy_helper

from exporter.variants.kinds import GraphFacts

INLINE_LIMIT: Final = 1_900_000_000  # protobuf refuses messages of 2 GiB


def facts_of(path: Path) -> GraphFacts:
    """Return what the graph is made of. Weights outside the file are counted, not read."""
    model = onnx.load(str(path), load_external_data=False)
    readers: dict[str, str] = {}
    for node in nodes_of(model.graph):
        for name in node.input:
            readers.setdefault(name, node.op_type)
    weights: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        weights[readers.get(tensor.name, "")] += _bytes_of(tensor)
    return GraphFacts(dict(histogram(model)), dict(weights), file_bytes(path))


def histogram(model: onnx.ModelProto) -> Counter[str]:
    """Return how often each operator occurs, subgraphs included."""
    return Counter(node.op_type for node in nodes_of(model.graph))


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return by operator how many more there are after than before; equal ones are left out."""
    gaps = {op: after.get(op, 0) - before.get(op, 0) for op in sorted({*before, *after})}
    return {op: gap for op, gap in gaps.items() if gap}


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of the graphs in their attributes."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from nodes_of(inner)


def file_bytes(path: Path) -> int:
    """Return the size of a model with the files of weights beside it."""
    model = onnx.load(str(path), load_external_data=False)
    beside = {
        entry.value
        for tensor in model.graph.initializer
        if external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    weights_bytes: int = sum((path.parent / name).stat().st_size for name in beside)
    return path.stat().st_size + weights_bytes


def load(path: Path) -> onnx.ModelProto:
    """Return the model with its weights and without inferred shapes.

    Shapes that an optimiser left behind contradict those that the quantisers infer anew.
    """
    model = onnx.load(str(path))
    del model.graph.value_info[:]
    return model


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write a model; weights that protobuf cannot hold go into `<name>.data` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Counted by the weights: protobuf is not asked for the size of what it cannot hold.
    weights: int = sum(_bytes_of(tensor) for tensor in model.graph.initializer)
    if weights < INLINE_LIMIT:
        onnx.save(model, str(path))
        return
    onnx.save(model, str(path), save_as_external_data=True, location=f"{path.name}.data")


def restamp(path: Path, source: Path) -> None:
    """Give a file the metadata of the one it was made from, and only the domains that it uses.

    Quantisers sign with their own name, import every domain they know and leave shapes behind.
    """
    made = onnx.load(str(path), load_external_data=False)
    like = onnx.load(str(source), load_external_data=False)
    made.producer_name, made.producer_version = like.producer_name, like.producer_version
    made.graph.name, made.doc_string = like.graph.name, like.doc_string
    del made.metadata_props[:]
    made.metadata_props.extend(like.metadata_props)
    del made.graph.value_info[:]
    used = {node.domain for node in nodes_of(made.graph)} | {""}
    kept = {entry.domain: entry for entry in made.opset_import if entry.domain in used}
    del made.opset_import[:]
    made.opset_import.extend(kept.values())
    onnx.save(made, str(path))


def gemm_to_matmul(model: onnx.ModelProto) -> int:
    """Replace in place each Gemm with constant weights by MatMul and Add; return how many.

    torch writes Gemm for every linear layer, and the 4-bit quantiser only knows MatMul. A Gemm
    that scales or transposes its input, or whose weights are computed, is left alone.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        replaced = _split_gemm(node, constants) if node.op_type == "Gemm" else None
        if replaced is None:
            nodes.append(node)
            continue
        weight, parts = replaced
        count += 1
        if weight.name not in constants:
            constants[weight.name] = weight
            graph.initializer.append(weight)
        nodes += parts
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unread(graph)
    return count


def large_linear(model: onnx.ModelProto, min_elements: int) -> tuple[list[str], list[str]]:
    """Return the names of the MatMul nodes with constant weights: large ones, small ones.

    Nodes without a name get one, in place, because the quantiser tells them apart by name.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    large: list[str] = []
    small: list[str] = []
    for index, node in enumerate(model.graph.node):
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        node.name = node.name or f"matmul_{index}"
        shape = constants[node.input[1]].dims
        is_large = len(shape) == 2 and int(np.prod(shape)) >= min_elements
        (large if is_large else small).append(node.name)
    return large, small


def _split_gemm(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> tuple[onnx.TensorProto, list[onnx.NodeProto]] | None:
    """Return (weights [in, out], the nodes that replace a Gemm), None if it cannot be replaced."""
    attributes: dict[str, Any] = {
        a.name: onnx.helper.get_attribute_value(a) for a in node.attribute
    }
    plain = (attributes.get("alpha", 1.0), attributes.get("beta", 1.0)) == (1.0, 1.0)
    if not plain or attributes.get("transA", 0) or node.input[1] not in constants:
        return None
    weight = constants[node.input[1]]
    if attributes.get("transB", 0):
        turned = np.ascontiguousarray(numpy_helper.to_array(weight).T)
        weight = numpy_helper.from_array(turned, f"{weight.name}.transposed")
    has_bias = len(node.input) > 2 and node.input[2]
    product = f"{node.output[0]}.product" if has_bias else node.output[0]
    name = node.name or node.output[0]
    parts = [
        onnx.helper.make_node("MatMul", [node.input[0], weight.name], [product], f"{name}.matmul"),
    ]
    if has_bias:
        parts.append(
            onnx.helper.make_node(
                "Add", [product, node.input[2]], [node.output[0]], f"{name}.bias"
            ),
        )
    return weight, parts


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in nodes_of(graph) for name in node.input}
    read |= {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _bytes_of(tensor: onnx.TensorProto) -> int:
    bits = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(np.prod(tensor.dims, dtype=np.int64)) * int(bits)
