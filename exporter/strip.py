"""Metadata: what torch leaves in a graph goes, what a reader of the file needs is stamped on it.

torch writes the absolute path and the source line of every operation into the nodes.
"""

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from service import __version__


def strip(model: ir.Model, name: str, properties: Mapping[str, str]) -> None:
    """Remove paths, source lines and scopes from the model and stamp it, in place.

    name: becomes the name of the graph. properties: model-level metadata, which every tool keeps.
    What is stamped depends on nothing but these, so that equal modules give equal bytes.
    """
    ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.meta.clear()
    model.graph.metadata_props.clear()
    model.doc_string = None
    model.graph.doc_string = None
    model.graph.name = name
    model.producer_name = "penstock"
    model.producer_version = __version__
    model.metadata_props.update(sorted(properties.items()))
