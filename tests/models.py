"""The models of Triton's examples and tests, made here: `python -m tests.models DIRECTORY`.

The graphs are our own; names, datatypes, shapes, configurations and what comes out are those that
clients written for Triton expect. The script writes a repository of all of them.
"""

import argparse
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from onnx import NodeProto, helper

from service.pb.model_config_pb2 import DataType
from service.repository.model_config import data_type_of
from service.tensors import BOOL, BYTES, FP16, FP32, INT8, INT32, UINT64, Array, Datatype
from tests.support import python_models
from tests.support.models import onnx_model, onnx_type

ROWS: Final = 8  # max_batch_size of those that batch
LABEL: Final = "VULTURE"  # what the best class of densenet_onnx is called
BEST_CLASS: Final = 23
_CLASSES: Final = 1000
_PAIR: Final = ("INPUT0", "INPUT1")
_PAIR_OUT: Final = ("OUTPUT0", "OUTPUT1")
_CONTROLS: Final = ("START", "END", "READY")

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


def write(root: Path, names: Collection[str] = ()) -> None:
    """Write these models, or all, into a repository."""
    for name in names or NAMES:
        if name in MODELS:
            MODELS[name](name).write(root / name)
        else:
            python_models.write(root, name)


def main() -> None:
    """Write all models, or those named, into a directory."""
    parser = argparse.ArgumentParser(prog="python -m tests.models", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="default: all of them")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    write(arguments.directory, arguments.names)


def _config(name: str, rows: int, inputs: Tensors, outputs: Tensors, *more: str) -> str:
    """Return a config.pbtxt with max_batch_size: rows; more: what it says besides."""
    entries = [
        f'{kind} {{ name: "{tensor}" data_type: {DataType.Name(data_type_of(datatype))} '
        f"dims: {list(dims)} }}"
        for kind, tensors in (("input", inputs), ("output", outputs))
        for tensor, datatype, dims in tensors
    ]
    head = [f'name: "{name}"', 'platform: "onnxruntime_onnx"', f"max_batch_size: {rows}"]
    return "\n".join([*head, *entries, *more, ""])


def _sum_and_difference(datatype: Datatype, out: Datatype, *, is_swapped: bool = False) -> bytes:
    """OUTPUT0 is INPUT0 + INPUT1, OUTPUT1 their difference; or, swapped, the other way round.

    Text is read as numbers, and written as such where out is BYTES.
    """
    nodes = [_cast(name, f"{name}_number", INT32) for name in _PAIR]
    operations = ("Sub", "Add") if is_swapped else ("Add", "Sub")
    for name, operation in zip(_PAIR_OUT, operations, strict=True):
        operands = [f"{operand}_number" for operand in _PAIR]
        nodes.append(helper.make_node(operation, operands, [f"{name}_number"]))
        nodes.append(_cast(f"{name}_number", name, out))
    shape = ("batch", 16)
    return onnx_model(
        nodes,
        [(name, datatype, shape) for name in _PAIR],
        [(name, out, shape) for name in _PAIR_OUT],
    )


def _pair_config(name: str, datatype: Datatype, out: Datatype, *more: str) -> str:
    inputs = [(tensor, datatype, [16]) for tensor in _PAIR]
    outputs = [(tensor, out, [16]) for tensor in _PAIR_OUT]
    return _config(name, ROWS, inputs, outputs, *more)


def _simple(datatype: Datatype, out: Datatype) -> Callable[[str], Files]:
    def files(name: str) -> Files:
        config = _pair_config(name, datatype, out, "dynamic_batching { }")
        return Files(config, (_sum_and_difference(datatype, out),))

    return files


def _three_versions(name: str) -> Files:
    """Versions 2 and 3 have the outputs of version 1 swapped."""
    config = _pair_config(name, INT32, INT32, "version_policy { all { } }")
    graphs = [_sum_and_difference(INT32, INT32, is_swapped=swap) for swap in (False, True, True)]
    return Files(config, tuple(graphs))


def _identity(datatype: Datatype, rows: int = 0) -> Callable[[str], Files]:
    def files(name: str) -> Files:
        shape = ("batch", "n") if rows else ("n",)
        graph = onnx_model(
            [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])],
            [("INPUT0", datatype, shape)],
            [("OUTPUT0", datatype, shape)],
        )
        inputs, outputs = [("INPUT0", datatype, [-1])], [("OUTPUT0", datatype, [-1])]
        return Files(_config(name, rows, inputs, outputs), (graph,))

    return files


def _sequence(name: str) -> Files:
    """OUTPUT is READY * (INPUT + START): the controls show, nothing is remembered."""
    nodes = [
        helper.make_node("Add", ["INPUT", "START"], ["started"]),
        helper.make_node("Mul", ["started", "READY"], ["OUTPUT"]),
    ]
    batching = [
        "max_sequence_idle_microseconds: 5000000",
        *(_control(kind) for kind in ("START", "READY")),
    ]
    graph = _sequence_graph(nodes, ("INPUT", "START", "READY"))
    return Files(_sequence_config(name, batching), (graph,))


def _dyna_sequence(name: str) -> Files:
    """OUTPUT is READY * (INPUT + START + END * CORRID)."""
    nodes = [
        _cast("CORRID", "id", INT32),
        helper.make_node("Add", ["INPUT", "START"], ["started"]),
        *_ended("started", "id"),
    ]
    graph = _sequence_graph(nodes, ("INPUT", *_CONTROLS), [("CORRID", UINT64)])
    return Files(_sequence_config(name, _oldest("TYPE_UINT64")), (graph,))


def _string_dyna_sequence(name: str) -> Files:
    """Add up INPUT from START on; the last answer of a sequence has its id added."""
    constants = {"nobody": np.array([""], object), "zero": np.array(["0"], object)}
    nodes = [
        # A row that is there to fill the batch has no id, and "" is no number.
        helper.make_node("Equal", ["CORRID", "nobody"], ["is_nobody"]),
        helper.make_node("Where", ["is_nobody", "zero", "CORRID"], ["number"]),
        _cast("number", "id", INT32),
        _cast("START", "is_start", BOOL),
        helper.make_node("Add", ["INPUT", "before"], ["added"]),
        helper.make_node("Where", ["is_start", "INPUT", "added"], ["after"]),
        *_ended("after", "id"),
    ]
    graph = _sequence_graph(
        nodes, ("INPUT", *_CONTROLS, "before"), [("CORRID", BYTES)], ("OUTPUT", "after"), constants
    )
    state = (
        'state { input_name: "before" output_name: "after" data_type: TYPE_INT32 dims: 1 '
        'initial_state { name: "zero" data_type: TYPE_INT32 dims: 1 zero_data: true } }'
    )
    return Files(_sequence_config(name, [*_oldest("TYPE_STRING"), state]), (graph,))


def _ended(value: str, number: str) -> list[NodeProto]:
    """OUTPUT is READY * (value + END * number)."""
    return [
        helper.make_node("Mul", ["END", number], ["at_end"]),
        helper.make_node("Add", [value, "at_end"], ["ended"]),
        helper.make_node("Mul", ["ended", "READY"], ["OUTPUT"]),
    ]


def _sequence_graph(
    nodes: Sequence[NodeProto],
    inputs: Sequence[str],
    more: Sequence[tuple[str, Datatype]] = (),
    outputs: Sequence[str] = ("OUTPUT",),
    constants: Mapping[str, Array] | None = None,
) -> bytes:
    """Return a graph whose tensors are INT32 [batch,1], but for those of more."""
    shape = ("batch", 1)
    return onnx_model(
        nodes,
        [(name, datatype, shape) for name, datatype in [*((n, INT32) for n in inputs), *more]],
        [(name, INT32, shape) for name in outputs],
        dict(constants or {}),
    )


def _sequence_config(name: str, batching: Iterable[str]) -> str:
    lines = "\n".join(f"  {line}" for line in batching)
    inputs, outputs = [("INPUT", INT32, [1])], [("OUTPUT", INT32, [1])]
    return _config(name, ROWS, inputs, outputs, f"sequence_batching {{\n{lines}\n}}")


def _oldest(corrid: str) -> list[str]:
    return [
        "max_sequence_idle_microseconds: 10000000",
        *(_control(kind) for kind in _CONTROLS),
        _control("CORRID", f"data_type: {corrid}"),
        "oldest { max_candidate_sequences: 1024 max_queue_delay_microseconds: 10000 }",
    ]


def _control(kind: str, values: str = "int32_false_true: [ 0, 1 ]") -> str:
    return (
        f'control_input {{ name: "{kind}" control {{ kind: CONTROL_SEQUENCE_{kind} {values} }} }}'
    )


def _densenet(name: str) -> Files:
    """Give an image a thousand scores, one above all others, in DenseNet's shapes."""
    scores = np.linspace(0, 1, _CLASSES, dtype=np.float32)
    scores[BEST_CLASS] = 2
    constants = {
        "weights": np.full((_CLASSES, 3, 1, 1), 1e-6, np.float32),
        "scores": scores,
    }
    nodes = [
        helper.make_node("GlobalAveragePool", ["data_0"], ["mean"]),
        helper.make_node("Conv", ["mean", "weights", "scores"], ["fc6_1"]),
    ]
    graph = onnx_model(
        nodes,
        [("data_0", FP32, (1, 3, 224, 224))],
        [("fc6_1", FP32, (1, _CLASSES, 1, 1))],
        constants,
    )
    labels = [LABEL if index == BEST_CLASS else f"CLASS {index}" for index in range(_CLASSES)]
    config = f"""name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: 0
input {{
  name: "data_0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 224 ]
  reshape {{ shape: [ 1, 3, 224, 224 ] }}
}}
output {{
  name: "fc6_1" data_type: TYPE_FP32 dims: [ {_CLASSES} ]
  reshape {{ shape: [ 1, {_CLASSES}, 1, 1 ] }} label_filename: "labels.txt"
}}
"""
    return Files(config, (graph,), {"labels.txt": "\n".join(labels) + "\n"})


def _with_optional(inputs: int, required: int) -> Callable[[str], Files]:
    """OUTPUT0 is the sum of all elements; inputs after the required ones may be left out."""

    def files(name: str) -> Files:
        names = [f"INPUT{index}" for index in range(inputs)]
        nodes = [
            helper.make_node("ReduceSum", [tensor], [f"{tensor}_sum"], keepdims=1)
            for tensor in names
        ]
        nodes.append(helper.make_node("Sum", [f"{tensor}_sum" for tensor in names], ["OUTPUT0"]))
        graph = onnx_model(
            nodes,
            [(tensor, FP32, ("n",)) for tensor in names],
            [("OUTPUT0", FP32, (1,))],
            {tensor: np.zeros(1, np.float32) for tensor in names[required:]},
        )
        entries = [
            f'input {{ name: "{tensor}" data_type: TYPE_FP32 dims: -1 optional: true }}'
            for tensor in names[required:]
        ]
        tensors = [(tensor, FP32, [-1]) for tensor in names[:required]]
        return Files(_config(name, 0, tensors, [("OUTPUT0", FP32, [1])], *entries), (graph,))

    return files


def _dummy(name: str) -> Files:
    """OpenVINO Model Server's: a is b + 1."""
    graph = onnx_model(
        [helper.make_node("Add", ["b", "one"], ["a"])],
        [("b", FP32, (1, 10))],
        [("a", FP32, (1, 10))],
        {"one": np.array(1, np.float32)},
    )
    return Files(_config(name, 0, [("b", FP32, [1, 10])], [("a", FP32, [1, 10])]), (graph,))


def _cast(source: str, to: str, datatype: Datatype) -> NodeProto:
    return helper.make_node("Cast", [source], [to], to=onnx_type(datatype))


MODELS: Final[Mapping[str, Callable[[str], Files]]] = {
    "simple": _simple(INT32, INT32),
    "simple_int8": _simple(INT8, INT8),
    "simple_string": _simple(BYTES, BYTES),
    "simple_identity": _identity(BYTES, ROWS),
    "simple_sequence": _sequence,
    "simple_dyna_sequence": _dyna_sequence,
    "simple_string_dyna_sequence": _string_dyna_sequence,
    "densenet_onnx": _densenet,
    "identity_fp32": _identity(FP32),
    "identity_fp16": _identity(FP16),
    "identity_bytes": _identity(BYTES),
    "string_identity": _identity(BYTES),
    "onnx_int32_int32_int32": _three_versions,
    "onnx_object_int32_int32": _simple(BYTES, INT32),
    "input_all_required": _with_optional(3, 3),
    "input_optional": _with_optional(4, 3),
    "input_all_optional": _with_optional(3, 0),
    "dummy": _dummy,
}

# What no graph can express is code, for --allow-python-backend.
NAMES: Final = (*MODELS, *(name for name in python_models.NAMES if name not in MODELS))

if __name__ == "__main__":
    main()
