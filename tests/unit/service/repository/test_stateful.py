"""States and controls of a graph: what clients see, where the batch is, where sequences start."""

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from service.errors import ConfigError
from service.pb.model_config_pb2 import ModelConfig
from service.repository.sequences import Control, SequenceSpec
from service.repository.signature import Graph, GraphTensor, resolve
from service.repository.stateful import Hidden, can_batch, configured, inferred, sequence_spec
from service.tensors import FP32, INT32, UINT64, Array, Datatype

Extents = tuple[int | str | None, ...]
STATE = 'state { input_name: "h" output_name: "hn" data_type: TYPE_FP32 dims: 4 %s }'


def tensor(name: str, shape: Extents, datatype: Datatype = FP32) -> GraphTensor:
    """Return a tensor of a graph."""
    return GraphTensor(name, datatype, shape)


def graph(state: Extents = ("batch", 4), after: Extents | None = None) -> Graph:
    """Return a graph with x, h, START and id, and with y and hn."""
    inputs = (
        tensor("x", ("batch", 3)), tensor("h", state), tensor("START", ("batch", 1), INT32),
        tensor("id", ("batch", 1), UINT64),
    )  # fmt: skip
    return Graph(inputs, (tensor("hn", after or state), tensor("y", ("batch", 2))))


def config(batching: str, more: str = "max_batch_size: 8") -> ModelConfig:
    """Return a configuration with this sequence_batching, START and id among it."""
    text = f"""{more} sequence_batching {{ {batching}
      control_input {{ name: "START" control {{ kind: CONTROL_SEQUENCE_START
                                                int32_false_true: [ 3, 5 ] }} }}
      control_input {{ name: "id" control {{ kind: CONTROL_SEQUENCE_CORRID
                                             data_type: TYPE_UINT64 }} }} }}"""
    return text_format.Parse(text, ModelConfig())


def spec_of(
    graph_: Graph, config_: ModelConfig | None, directory: Path | None = None
) -> SequenceSpec:
    """Return how the sequences of a model are served."""
    hidden = configured(graph_, config_) or inferred(graph_, None)
    assert hidden is not None
    model = resolve(hidden.visible(graph_), hidden.visible_config(config_), None)
    return sequence_spec(graph_, hidden, model, config_, directory or Path("m"))


def initial(spec: SequenceSpec) -> Array:
    """Return what the only state starts from."""
    (state,) = spec.states
    return state.initial


def refused(graph_: Graph, config_: ModelConfig, directory: Path | None = None) -> str:
    """Return why a configuration does not fit a graph."""
    with pytest.raises(ConfigError) as caught:
        spec_of(graph_, config_, directory)
    return str(caught.value)


def test_clients_see_neither_states_nor_controls() -> None:
    """What is left of the graph is x and y; the backend takes everything, batch first."""
    hidden = configured(graph(), config(STATE % ""))
    assert hidden is not None
    left = hidden.visible(graph())
    assert [t.name for t in (*left.inputs, *left.outputs)] == ["x", "y"]
    model = resolve(left, config(STATE % ""), None)
    spec = spec_of(graph(), config(STATE % ""))
    full = spec.graph_signature(model.signature)
    assert [(t.name, t.shape) for t in full.inputs] == [
        ("x", (-1, 3)), ("START", (-1, 1)), ("id", (-1, 1)), ("h", (-1, 4))
    ]  # fmt: skip
    assert [t.name for t in full.outputs] == ["y", "hn"]


def test_state_listed_under_output_is_shown() -> None:
    """An output of a state that the configuration lists is answered with."""
    more = """max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: 3 }
      output [ { name: "y" data_type: TYPE_FP32 dims: 2 },
               { name: "hn" data_type: TYPE_FP32 dims: 4 } ]"""
    hidden = configured(graph(), config(STATE % "", more))
    assert hidden is not None
    assert [t.name for t in hidden.visible(graph()).outputs] == ["hn", "y"]
    assert spec_of(graph(), config(STATE % "", more)).states[0].is_output


def test_controls_have_one_element_a_row() -> None:
    """False and true are those of the configuration, in the type and rank of the graph."""
    start, corrid = spec_of(graph(), config(STATE % "")).controls
    assert (start.kind, corrid.kind) == (Control.START, Control.CORRID)
    assert start.false is not None
    assert start.true is not None
    assert (start.false.tolist(), start.true.tolist()) == ([[3]], [[5]])
    assert start.true.dtype == np.int32


def test_state_starts_from_zeros() -> None:
    """Without initial_state a sequence starts from zeros, one where an extent is open."""
    assert initial(spec_of(graph(), config(STATE % ""))).tolist() == [[0, 0, 0, 0]]
    open_ = STATE.replace("dims: 4", "dims: -1") % ""
    assert initial(spec_of(graph(("batch", "n")), config(open_))).shape == (1, 1)


def test_initial_state_gives_open_extents() -> None:
    """The dims of initial_state are what a sequence starts with, nothing at all among them."""
    text = STATE.replace("dims: 4", "dims: -1") % (
        "initial_state { data_type: TYPE_FP32 dims: 0 zero_data: true }"
    )
    assert initial(spec_of(graph(("batch", "n")), config(text))).shape == (1, 0)


def test_extent_that_is_fixed_in_the_graph_is_what_a_sequence_starts_with() -> None:
    """Where config.pbtxt leaves open what the graph does not, nothing else could be run."""
    assert initial(spec_of(graph(), config(STATE.replace("dims: 4", "dims: -1") % ""))).shape == (
        1,
        4,
    )


def test_initial_state_that_the_graph_does_not_take_is_refused() -> None:
    """It would fail the first step of every sequence."""
    text = STATE.replace("dims: 4", "dims: -1") % (
        "initial_state { data_type: TYPE_FP32 dims: 3 zero_data: true }"
    )
    assert refused(graph(), config(text)) == (
        "config.pbtxt: state 'h': initial_state has dims [3], but 'h' of the graph has [-1,4] with "
        "the batch on axis 0"
    )


@pytest.mark.parametrize("extent", [1 << 29, 10**12, 1 << 62])
def test_initial_state_larger_than_any_may_be_is_refused(extent: int) -> None:
    """The text says which state, its size and the most; nothing is made of that size."""
    text = STATE.replace("dims: 4", "dims: -1") % (
        f"initial_state {{ data_type: TYPE_FP32 dims: {extent} zero_data: true }}"
    )
    assert refused(graph(("batch", "n")), config(text)) == (
        f"config.pbtxt: state 'h' would begin with {extent * 4} bytes, at most 1073741824 are taken"
    )


def test_initial_state_of_a_file(tmp_path: Path) -> None:
    """A data_file holds the raw contents of one state, in the model's directory initial_state."""
    text = STATE % 'initial_state { data_type: TYPE_FP32 dims: 4 data_file: "h.bin" }'
    assert "h.bin: cannot be read" in refused(graph(), config(text), tmp_path)
    (tmp_path / "initial_state").mkdir()
    file = tmp_path / "initial_state" / "h.bin"
    file.write_bytes(np.arange(3, dtype=np.float32).tobytes())
    assert "12 bytes do not hold FP32[1,4]" in refused(graph(), config(text), tmp_path)
    file.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    spec = spec_of(graph(), config(text), tmp_path)
    assert initial(spec).tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("graph_", "config_", "reason"),
    [
        (graph(), config(STATE.replace('"h"', '"k"') % ""),
         "state input 'k' is not in the graph, which has ['START', 'h', 'id', 'x']"),
        (graph(), config(STATE.replace('"hn"', '"kn"') % ""),
         "state output 'kn' is not in the graph"),
        (graph(), config(STATE.replace("TYPE_FP32", "TYPE_INT8") % ""),
         "state 'h' is TYPE_INT8, but input 'h' of the graph is TYPE_FP32"),
        (graph(), config(STATE.replace("dims: 4", "dims: 5") % ""),
         "state 'h' has dims [5], but 'h' of the graph has [-1,4] with the batch on axis 0"),
        (graph((1, 4)), config(STATE % ""),
         "the model batches, but state 'h' has no axis for it: the graph has [1,4] in and [1,4]"),
        (Graph((tensor("h", ("b", 4)), tensor("START", ("b", 1), INT32),
                tensor("id", ("b", 1), UINT64)), (tensor("hn", ("b", 4)), tensor("y", ("b", 2)))),
         config(STATE % ""), "leaves no input for clients"),
        (Graph((*graph().inputs[:2], tensor("START", ("batch", 1)), graph().inputs[3]),
               graph().outputs), config(STATE % ""),
         "int32_false_true, but the graph takes TYPE_FP32"),
        (Graph((*graph().inputs[:3], tensor("id", ("batch", 1), INT32)), graph().outputs),
         config(STATE % ""), "'id' is TYPE_UINT64, but the graph takes TYPE_INT32"),
        (Graph((*graph().inputs[:2], tensor("START", ("batch", 2), INT32), graph().inputs[3]),
               graph().outputs), config(STATE % ""),
         "has one element, but the graph takes [-1,2]"),
        (graph(),
         config(STATE % "", 'max_batch_size: 8 input { name: "h" data_type: TYPE_FP32 dims: 4 }'),
         "input 'h' is filled by sequence_batching: leave it out of input"),
    ],
)  # fmt: skip
def test_what_the_graph_contradicts_is_refused(
    graph_: Graph, config_: ModelConfig, reason: str
) -> None:
    """The text names the tensor, what is said of it, and what the graph has."""
    assert reason in refused(graph_, config_)


def test_batch_on_another_axis_is_found_by_its_name() -> None:
    """The state of an ONNX GRU has its batch on axis 1, which bears the name of the batch."""
    text = STATE.replace("dims: 4", "dims: [ 2, 4 ]") % ""
    spec = spec_of(graph((2, "batch", 4)), config(text))
    assert spec.states[0].axis == 1
    assert spec.states[0].shape == (2, 4)
    assert initial(spec).shape == (1, 2, 4)


def test_without_a_batch_shapes_are_complete() -> None:
    """With max_batch_size 0 the dims of a state are all that the graph has."""
    fixed = Graph(
        (tensor("x", (1, 3)), tensor("h", (1, 4)), tensor("START", (1,), INT32),
         tensor("id", (1,), UINT64)),
        (tensor("hn", (1, 4)), tensor("y", (1, 2))),
    )  # fmt: skip
    text = STATE.replace("dims: 4", "dims: [ 1, 4 ]") % ""
    spec = spec_of(fixed, config(text, "max_batch_size: 0"))
    assert initial(spec).shape == (1, 4)
    assert spec.controls[0].true is not None
    assert spec.controls[0].true.shape == (1,)


def test_inferred_state_that_grows_starts_from_nothing() -> None:
    """A free extent that has another name in the output is empty at first, else it is one."""

    def start(before: Extents, after: Extents) -> tuple[int, ...]:
        pair = Graph(
            (tensor("x", ("b", 3)), tensor("past_k", before)),
            (tensor("y", ("b", 2)), tensor("present_k", after)),
        )
        return initial(spec_of(pair, None)).shape

    assert start(("b", 2, "past", 4), ("b", 2, "total", 4)) == (1, 2, 0, 4)
    assert start(("b", 2, "n", 4), ("b", 2, "n", 4)) == (1, 2, 1, 4)
    assert start(("b", None), ("b", None)) == (1, 1)


def test_model_batches_if_every_state_knows_the_batch() -> None:
    """A state without an axis of that name keeps a model from being batched by itself."""
    hidden = Hidden({"h": "hn"})
    assert can_batch(graph((2, "batch", 4)), hidden)
    assert not can_batch(graph((2, "rows", 4)), hidden)
    assert not can_batch(graph((2, 1, 4)), hidden)
