"""An ONNX file that exists: checked, named, and proved against itself without optimisations.

The file may come from anywhere. It is read as data first, without its weights: what is wrong with
it is said before anything native loads it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
import onnxruntime as ort

from exporter.errors import ConversionFailed
from exporter.inputs import check_names
from exporter.sources.base import Opened, Request
from exporter.sources.external import check_external_data
from exporter.sources.graph import Shape, apply_names, clean_name, numpy_types, planned_inputs
from service.errors import listed
from service.repository.manifest import sha256_of
from service.tensors import Array, Tensors

_RUNTIME_DOMAINS: Final = ("com.microsoft", "com.microsoft.nchwc", "ai.onnx.ml", "ai.onnx.training")
_WAY_OUT: Final = "Export it again with a free batch axis"


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Read the file and check it.

    Raises UnsafeArtefact for weights outside of its folder, ConversionFailed for what no runtime
    can run, UsageError if its axes do not fit what was asked for.
    """
    path = Path(request.source)
    proto = read(path)
    check_versions(path, proto)
    check_operators(path, proto)
    check_external_data(path, proto)
    model = ir.load(path)
    weights = set(model.graph.initializers)
    ends = [value for value in model.graph.inputs if value.name not in weights]
    model.graph.inputs[:] = ends  # before IR 4 every weight was an input as well
    theirs = [str(value.name) for value in ends]
    shapes = {name: _extents(value) for name, value in zip(theirs, ends, strict=True)}
    numpy_types(model.graph.outputs)
    inputs = planned_inputs(shapes, numpy_types(ends), request, _WAY_OUT)
    outputs = request.output_names or tuple(clean_name(str(v.name)) for v in model.graph.outputs)
    check_names("output", outputs)
    session = _plain_session(path)

    def run(tensors: Tensors) -> Sequence[Array]:
        feeds = {name: tensors[item.name] for name, item in zip(theirs, inputs, strict=True)}
        arrays: Sequence[Array] = session.run(None, feeds)
        return arrays

    def convert() -> ir.Model:
        apply_names(model, inputs, outputs)
        return model

    provenance = {"file": request.label, "file_sha256": sha256_of(path)}
    opset = model.opset_imports.get("", 0)
    yield Opened(inputs, tuple(outputs), run, convert, opset, provenance)


def read(path: Path) -> onnx.ModelProto:
    """Return the graph without weights of other files. Raises ConversionFailed."""
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ConversionFailed(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's error has no public type
        raise ConversionFailed(
            f"{path}: not an ONNX file, or one that was cut off: {error}",
        ) from error
    if not proto.graph.node and not proto.graph.output:
        raise ConversionFailed(f"{path}: not an ONNX file: there is no graph in it")
    return proto


def check_versions(path: Path, proto: onnx.ModelProto) -> None:
    """Raise ConversionFailed if the file is newer than what is installed here."""
    if proto.ir_version > onnx.IR_VERSION:
        raise ConversionFailed(
            f"{path}: has IR version {proto.ir_version}, the newest that is known here is "
            f"{onnx.IR_VERSION}: upgrade onnx and onnxruntime, or export it for an older version",
        )
    newest = onnx.defs.onnx_opset_version()
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version > newest:
            raise ConversionFailed(
                f"{path}: uses opset {entry.version}, the newest that is known here is {newest}: "
                "upgrade onnx and onnxruntime, or export it for an older opset",
            )


def check_operators(path: Path, proto: onnx.ModelProto) -> None:
    """Raise ConversionFailed for operators that ONNX Runtime does not bring along."""
    own = {(function.domain, function.name) for function in proto.functions}
    unknown = {
        f"{node.domain}:{node.op_type}" if node.domain else node.op_type
        for node in _nodes(proto)
        if (node.domain, node.op_type) not in own and not _is_known(node)
    }
    if unknown:
        raise ConversionFailed(
            f"{path}: unknown operators {listed(sorted(unknown))}: the server has those of ONNX "
            "and of ONNX Runtime, and loads no libraries of custom ones; write them with standard "
            "operators",
        )


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node, also those of branches, loops and functions."""
    pending: list[Any] = [proto.graph, *proto.functions]
    while pending:
        for node in pending.pop().node:
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)


def _is_known(node: onnx.NodeProto) -> bool:
    if node.domain in ("", "ai.onnx"):
        return bool(onnx.defs.has(node.op_type))
    return node.domain in _RUNTIME_DOMAINS


def _extents(value: ir.Value) -> Shape:
    if value.shape is None:
        raise ConversionFailed(
            f"input '{value.name}' has no shape, not even a number of axes; export it again with "
            "one",
        )
    return [e if isinstance(e, int) else e.value for e in value.shape]


def _plain_session(path: Path) -> Any:
    """Load the file as it is, without optimisations: the reference of the proof."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors have no common base
        text = str(error).strip().split("\n", 1)[0]
        raise ConversionFailed(f"{path}: ONNX Runtime does not load it: {text}") from error
