"""What an ONNX file holds: signature, operators, weights, metadata. Runs nothing of it."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir

from exporter.errors import table
from exporter.sources.external import check_external_data
from exporter.sources.onnx_file import read
from service.errors import dims

_SOURCE_PATH: Final = re.compile(r"(?:[A-Za-z]:\\|/)[^\s\"']*\.py\b|File \"")


@dataclass(frozen=True, slots=True)
class End:
    """An input or output as the file declares it. shape: numbers, names, or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        """Return it as text: image FLOAT[batch,784]."""
        if self.shape is None:
            return f"{self.name} {self.type} of unknown rank"
        return (
            f"{self.name} {self.type}[{','.join('?' if n is None else str(n) for n in self.shape)}]"
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """What a file holds.

    weights_sha256: over names, types, shapes and bytes of all weights, wherever they are stored.
    leaks: how many nodes and values carry paths of the machine that made the file.
    """

    inputs: tuple[End, ...]
    outputs: tuple[End, ...]
    opsets: Mapping[str, int]
    ir_version: int
    producer: str
    operators: Mapping[str, int]
    parameters: int
    weights_sha256: str
    files: Mapping[str, int]
    metadata: Mapping[str, str]
    leaks: int

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return {**asdict(self), "nodes": sum(self.operators.values())}

    def to_text(self) -> str:
        """Return it for people."""
        sizes = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in self.files.items())
        opsets = ", ".join(f"{name or 'ai.onnx'} {n}" for name, n in sorted(self.opsets.items()))
        lines = [
            f"inputs      {', '.join(map(str, self.inputs))}",
            f"outputs     {', '.join(map(str, self.outputs))}",
            f"opset       {opsets} (IR {self.ir_version})",
            f"made by     {self.producer or 'unknown'}",
            f"parameters  {self.parameters:,}",
            f"files       {sizes}",
            f"weights     sha256 {self.weights_sha256}",
        ]
        lines += [f"metadata    {key}: {value}" for key, value in sorted(self.metadata.items())]
        if self.leaks:
            lines.append(f"leaks       {self.leaks} nodes carry paths of the machine that made it")
        operators = sorted(self.operators.items(), key=lambda item: (-item[1], item[0]))
        return "\n".join(
            (*lines, table(("operator", "nodes"), [[n, str(c)] for n, c in operators]))
        )


def inspect(path: str | Path) -> Summary:
    """Return what a file holds.

    Raises ConversionFailed if it is no ONNX file or lacks its weights, UnsafeArtefact if they lie
    outside of its folder.
    """
    path = Path(path)
    proto = read(path)
    check_external_data(path, proto)
    model = ir.load(path)
    nodes = [node for graph in _graphs(model) for node in graph]
    weights = _weights(model)
    files = {path.name: path.stat().st_size}
    for value in weights:
        if isinstance(value, ir.ExternalTensor):
            file = path.parent / value.location
            files[str(value.location)] = file.stat().st_size
    return Summary(
        inputs=tuple(_end(value) for value in proto.graph.input if not _is_weight(proto, value)),
        outputs=tuple(_end(value) for value in proto.graph.output),
        opsets={entry.domain: entry.version for entry in proto.opset_import},
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        operators=dict(Counter(_operator(node) for node in nodes)),
        parameters=sum(int(value.size) for value in weights),
        weights_sha256=_digest(model),
        files=files,
        metadata={entry.key: entry.value for entry in proto.metadata_props},
        leaks=sum(_leaks(node) for node in nodes),
    )


def weight_digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 of each weight by its name."""
    model = ir.load(path)
    return {name: _tensor_digest(name, value) for name, value in _named_weights(model)}


def _graphs(model: ir.Model) -> Iterator[ir.Graph | ir.Function]:
    yield from model.graphs()
    yield from model.functions.values()


def _named_weights(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    for graph in model.graphs():
        for name, value in sorted(graph.initializers.items()):
            if value.const_value is not None:
                yield name, value.const_value


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    return [value for _, value in _named_weights(model)]


def _digest(model: ir.Model) -> str:
    total = hashlib.sha256()
    for name, value in _named_weights(model):
        total.update(_tensor_digest(name, value).encode())
    return total.hexdigest()


def _tensor_digest(name: str, value: ir.TensorProtocol) -> str:
    own = hashlib.sha256(f"{name} {value.dtype} {dims(value.shape.numpy())}\n".encode())
    own.update(value.tobytes())
    return own.hexdigest()


def _operator(node: ir.Node) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _leaks(node: ir.Node) -> bool:
    texts = [node.doc_string or "", *node.metadata_props.values()]
    return any(_SOURCE_PATH.search(text) for text in texts)


def _is_weight(proto: onnx.ModelProto, value: onnx.ValueInfoProto) -> bool:
    """Tell whether an input is a weight: before IR 4 each was listed as an input as well."""
    return any(weight.name == value.name for weight in proto.graph.initializer)


def _end(value: onnx.ValueInfoProto) -> End:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return End(value.name, str(value.type.WhichOneof("value")), None)
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
    if not tensor.HasField("shape"):
        return End(value.name, kind, None)
    return End(
        value.name,
        kind,
        tuple(
            dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None)
            for dim in tensor.shape.dim
        ),
    )
