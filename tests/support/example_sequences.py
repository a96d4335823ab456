"""The models of Triton's examples of sequences; see tests/models.py."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from onnx import NodeProto, helper

from service.tensors import BOOL, BYTES, INT32, UINT64, Array, Datatype
from tests.support.example_files import ROWS, Files, cast, config
from tests.support.models import onnx_model

_CONTROLS: Final = ("START", "END", "READY")


def sequence(name: str) -> Files:
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


def dyna_sequence(name: str) -> Files:
    """OUTPUT is READY * (INPUT + START + END * CORRID)."""
    nodes = [
        cast("CORRID", "id", INT32),
        helper.make_node("Add", ["INPUT", "START"], ["started"]),
        *_ended("started", "id"),
    ]
    graph = _sequence_graph(nodes, ("INPUT", *_CONTROLS), [("CORRID", UINT64)])
    return Files(_sequence_config(name, _oldest("TYPE_UINT64")), (graph,))


def string_dyna_sequence(name: str) -> Files:
    """Add up INPUT from START on; the last answer of a sequence has its id added."""
    constants = {"nobody": np.array([""], object), "zero": np.array(["0"], object)}
    nodes = [
        # A row that is there to fill the batch has no id, and "" is no number.
        helper.make_node("Equal", ["CORRID", "nobody"], ["is_nobody"]),
        helper.make_node("Where", ["is_nobody", "zero", "CORRID"], ["number"]),
        cast("number", "id", INT32),
        cast("START", "is_start", BOOL),
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
    return config(name, ROWS, inputs, outputs, f"sequence_batching {{\n{lines}\n}}")


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
