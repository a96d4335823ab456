"""Metadata: what torch leaves in a graph goes, what a reader of the file needs is stamped on it.

torch writes the absolute path and the source line of every operation into the nodes.
"""

from collections.abc import Iterator, Mapping

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from service import __version__


def strip(model: ir.Model, name: str, properties: Mapping[str, str]) -> None:
    """Remove paths, source lines and scopes from the model and stamp it, in place.

    name: becomes the name of the graph. properties: model-level metadata, which every tool keeps.
    What is stamped depends on nothing but these, so that equal modules give equal bytes.
    """
    ClearMetadataAndDocStringPass()(model)  # of graphs, nodes and functions, not of values
    for graph in model.graphs():
        for value in _values(graph):
            value.metadata_props.clear()
            value.doc_string = None
    model.metadata_props.clear()
    model.doc_string = None
    model.graph.name = name
    model.producer_name = "penstock"
    model.producer_version = __version__
    model.metadata_props.update(sorted(properties.items()))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
