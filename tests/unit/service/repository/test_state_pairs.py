"""State pairs found by the names of tensors, as tables."""

import pytest

from service.repository.signature import Graph, GraphTensor
from service.repository.state_pairs import infer_pairs
from service.tensors import FP32, INT64, Datatype

STATE = ("batch", 4)


def tensor(
    name: str, shape: tuple[int | str | None, ...] = STATE, datatype: Datatype = FP32
) -> GraphTensor:
    """Return a tensor of a graph."""
    return GraphTensor(name, datatype, shape)


def graph(states: list[GraphTensor], outputs: list[GraphTensor]) -> Graph:
    """Return a graph with these and one input and output more."""
    more = tensor("x", ("batch", "time", 3)), tensor("y", ("batch", "time", 2))
    return Graph((more[0], *states), (*outputs, more[1]))


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("past_x", "present_x"),
        ("past_key_values.0.key", "present.0.key"),
        ("past_key_values.11.value", "present_key_values.11.value"),
        ("state_in", "state_out"),
        ("in_state", "out_state"),
        ("input_state", "output_state"),
        ("lstm/h_in", "lstm/h_out"),
        ("x_in", "x_out"),
        ("input_h", "output_h"),
        ("hidden", "hidden_out"),
        ("h0", "hn"),
        ("c0", "cn"),
        ("h_0", "h_n"),
        ("hx", "hy"),
        ("state", "next_state"),
        ("state", "state_next"),
        ("cache_last_channel_len", "cache_last_channel_len_next"),
        ("prev_state", "next_state"),
        ("initial_h", "final_h"),
        ("memory", "new_memory"),
    ],
)
def test_names_that_belong_together(name: str, output: str) -> None:
    """An input and an output of one shape whose names say before and after are a state."""
    assert infer_pairs(graph([tensor(name)], [tensor(output)])) == {name: output}


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("h", "h2"),
        ("index", "out_index_x"),
        ("min", "mout"),  # "in" is no word of its own here
        ("lengths", "probabilities"),
        ("past", "future"),
        ("input", "output"),
        ("input_0", "output_0"),
        ("input_ids", "output_ids"),
        ("in", "out"),
        ("in_1", "out_1"),
        ("mask", "mask_out"),
        ("b0", "bn"),
    ],
)
def test_names_that_do_not(name: str, output: str) -> None:
    """Names that merely look alike make no state."""
    assert infer_pairs(graph([tensor(name)], [tensor(output)])) == {}


@pytest.mark.parametrize(
    ("given", "taken", "is_pair"),
    [
        (tensor("h_out", ("batch", 4)), tensor("h_in", ("batch", 5)), False),
        (tensor("h_out", ("batch", 4, 1)), tensor("h_in", ("batch", 4)), False),
        (tensor("h_out", datatype=INT64), tensor("h_in"), False),
        (tensor("h_out", ("batch", "total", 4)), tensor("h_in", ("batch", "past", 4)), True),
        (tensor("h_out", (None, 4)), tensor("h_in", ("batch", 4)), True),
    ],
)
def test_type_and_shape_must_fit(given: GraphTensor, taken: GraphTensor, *, is_pair: bool) -> None:
    """What comes out must be able to go in."""
    assert bool(infer_pairs(graph([taken], [given]))) is is_pair


def test_each_output_is_the_state_of_one_input() -> None:
    """Two states of one shape are told apart by their names, whatever their order."""
    states = [tensor("c0"), tensor("h0")]
    assert infer_pairs(graph(states, [tensor("hn"), tensor("cn")])) == {"c0": "cn", "h0": "hn"}


def test_model_of_nothing_but_pairs_has_no_state() -> None:
    """A graph whose only tensors are image_in and image_out is an ordinary model."""
    lone = Graph((tensor("image_in"),), (tensor("image_out"),))
    assert infer_pairs(lone) == {}
    filtered = Graph((tensor("image_in"), tensor("mask")), (tensor("image_out"),))
    assert infer_pairs(filtered) == {}
