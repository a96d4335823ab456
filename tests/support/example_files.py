"""The files of one model of Triton's examples, and what they are put together from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from onnx import NodeProto, helper

from service.pb.model_config_pb2 import DataType
from service.repository.model_config import data_type_of
from service.tensors import Datatype
from tests.support.models import onnx_type

ROWS: Final = 8  # max_batch_size of those that batch

Tensors = Sequence[tuple[str, Datatype, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Files:
    """What lies in a model's directory: config.pbtxt, a graph a version, and files beside them."""

    config: str
    graphs: tuple[bytes, ...]
    others: Mapping[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Write them into a directory, which must not be there."""
        directory.mkdir(parents=True)
        (directory / "config.pbtxt").write_text(self.config)
        for name, text in self.others.items():
            (directory / name).write_text(text)
        for version, graph in enumerate(self.graphs, start=1):
            path = directory / str(version) / "model.onnx"
            path.parent.mkdir()
            path.write_bytes(graph)


def config(name: str, rows: int, inputs: Tensors, outputs: Tensors, *more: str) -> str:
    """Return a config.pbtxt with max_batch_size: rows; more: what it says besides."""
    entries = [
        f'{kind} {{ name: "{tensor}" data_type: {DataType.Name(data_type_of(datatype))} '
        f"dims: {list(dims)} }}"
        for kind, tensors in (("input", inputs), ("output", outputs))
        for tensor, datatype, dims in tensors
    ]
    head = [f'name: "{name}"', 'platform: "onnxruntime_onnx"', f"max_batch_size: {rows}"]
    return "\n".join([*head, *entries, *more, ""])


def cast(source: str, to: str, datatype: Datatype) -> NodeProto:
    """Return the node that casts a tensor."""
    return helper.make_node("Cast", [source], [to], to=onnx_type(datatype))
