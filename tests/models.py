"""The models of Triton's examples and tests, made here: `python -m tests.models DIRECTORY`.

The graphs are our own; names, datatypes, shapes, configurations and what comes out are those that
clients written for Triton expect. The script writes a repository of all of them.
"""

import argparse
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

import numpy as np
from onnx import helper

from service.tensors import BYTES, FP16, FP32, INT8, INT32, Datatype
from tests.support import python_models
from tests.support.example_files import ROWS, Files, cast, config
from tests.support.example_sequences import dyna_sequence, sequence, string_dyna_sequence
from tests.support.models import onnx_model

LABEL: Final = "VULTURE"  # what the best class of densenet_onnx is called
BEST_CLASS: Final = 23
_CLASSES: Final = 1000
_PAIR: Final = ("INPUT0", "INPUT1")
_PAIR_OUT: Final = ("OUTPUT0", "OUTPUT1")


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


def _sum_and_difference(datatype: Datatype, out: Datatype, *, is_swapped: bool = False) -> bytes:
    """OUTPUT0 is INPUT0 + INPUT1, OUTPUT1 their difference; or, swapped, the other way round.

    Text is read as numbers, and written as such where out is BYTES.
    """
    nodes = [cast(name, f"{name}_number", INT32) for name in _PAIR]
    operations = ("Sub", "Add") if is_swapped else ("Add", "Sub")
    for name, operation in zip(_PAIR_OUT, operations, strict=True):
        operands = [f"{operand}_number" for operand in _PAIR]
        nodes.append(helper.make_node(operation, operands, [f"{name}_number"]))
        nodes.append(cast(f"{name}_number", name, out))
    shape = ("batch", 16)
    return onnx_model(
        nodes,
        [(name, datatype, shape) for name in _PAIR],
        [(name, out, shape) for name in _PAIR_OUT],
    )


def _pair_config(name: str, datatype: Datatype, out: Datatype, *more: str) -> str:
    inputs = [(tensor, datatype, [16]) for tensor in _PAIR]
    outputs = [(tensor, out, [16]) for tensor in _PAIR_OUT]
    return config(name, ROWS, inputs, outputs, *more)


def _simple(datatype: Datatype, out: Datatype) -> Callable[[str], Files]:
    def files(name: str) -> Files:
        text = _pair_config(name, datatype, out, "dynamic_batching { }")
        return Files(text, (_sum_and_difference(datatype, out),))

    return files


def _three_versions(name: str) -> Files:
    """Versions 2 and 3 have the outputs of version 1 swapped."""
    text = _pair_config(name, INT32, INT32, "version_policy { all { } }")
    graphs = [_sum_and_difference(INT32, INT32, is_swapped=swap) for swap in (False, True, True)]
    return Files(text, tuple(graphs))


def _identity(datatype: Datatype, rows: int = 0) -> Callable[[str], Files]:
    def files(name: str) -> Files:
        shape = ("batch", "n") if rows else ("n",)
        graph = onnx_model(
            [helper.make_node("Identity", ["INPUT0"], ["OUTPUT0"])],
            [("INPUT0", datatype, shape)],
            [("OUTPUT0", datatype, shape)],
        )
        inputs, outputs = [("INPUT0", datatype, [-1])], [("OUTPUT0", datatype, [-1])]
        return Files(config(name, rows, inputs, outputs), (graph,))

    return files


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
    text = f"""name: "{name}"
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
    return Files(text, (graph,), {"labels.txt": "\n".join(labels) + "\n"})


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
        return Files(config(name, 0, tensors, [("OUTPUT0", FP32, [1])], *entries), (graph,))

    return files


def _dummy(name: str) -> Files:
    """OpenVINO Model Server's: a is b + 1."""
    graph = onnx_model(
        [helper.make_node("Add", ["b", "one"], ["a"])],
        [("b", FP32, (1, 10))],
        [("a", FP32, (1, 10))],
        {"one": np.array(1, np.float32)},
    )
    return Files(config(name, 0, [("b", FP32, [1, 10])], [("a", FP32, [1, 10])]), (graph,))


MODELS: Final[Mapping[str, Callable[[str], Files]]] = {
    "simple": _simple(INT32, INT32),
    "simple_int8": _simple(INT8, INT8),
    "simple_string": _simple(BYTES, BYTES),
    "simple_identity": _identity(BYTES, ROWS),
    "simple_sequence": sequence,
    "simple_dyna_sequence": dyna_sequence,
    "simple_string_dyna_sequence": string_dyna_sequence,
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
