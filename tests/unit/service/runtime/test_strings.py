"""Graphs that only move strings are told from those that look into them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from service.inference.backend import Interrupt
from service.runtime.providers import Device
from service.runtime.session import OnnxBackend, Session, SessionConfig
from service.runtime.strings import MovedStrings, only_moves_strings
from service.tensors import BYTES, INT64, Signature, TensorSpec
from tests.support import forms, models
from tests.support.models import onnx_model

_BYTES_SHAPE = ("batch", "n")


def reversed_rows() -> bytes:
    """Y is X with its columns in the order that I gives, and once more below."""
    nodes = [
        helper.make_node("Gather", ["X", "I"], ["G"], axis=1),
        helper.make_node("Concat", ["X", "G"], ["Y"], axis=0),
    ]
    inputs = [("X", BYTES, _BYTES_SHAPE), ("I", INT64, ("n",))]
    return onnx_model(nodes, inputs, [("Y", BYTES, ("rows", "n"))])


def with_string_of_its_own() -> bytes:
    """Y is X after a word."""
    node = helper.make_node("Concat", ["word", "X"], ["Y"], axis=0)
    word = {"word": np.array([["é"]], object)}
    return onnx_model([node], [("X", BYTES, _BYTES_SHAPE)], [("Y", BYTES, _BYTES_SHAPE)], word)


def of_another_domain() -> bytes:
    """Have an operator of the same name, which may do anything."""
    node = helper.make_node("Identity", ["X"], ["Y"], domain="other")
    return onnx_model([node], [("X", BYTES, _BYTES_SHAPE)], [("Y", BYTES, _BYTES_SHAPE)])


@pytest.mark.parametrize(
    ("model", "moves"),
    [
        (models.identity(BYTES), True),
        (reversed_rows(), True),
        (forms.known(), False),
        (with_string_of_its_own(), False),
        (of_another_domain(), False),
        (b"\xff", False),
    ],
    ids=["identity", "reversed", "known", "own string", "other domain", "no model"],
)
def test_what_a_graph_does_to_strings_is_found(tmp_path: Path, model: bytes, moves: bool) -> None:  # noqa: FBT001
    """Only graphs of operators that copy and arrange, without strings of their own, move them."""
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    assert only_moves_strings(path) is moves


def test_file_that_is_gone_is_not_looked_through(tmp_path: Path) -> None:
    """What cannot be read is taken to look into its strings."""
    assert not only_moves_strings(tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> MovedStrings:
    """Load the model that reverses."""
    path = tmp_path_factory.mktemp("moving") / "model.onnx"
    path.write_bytes(reversed_rows())
    spec = TensorSpec("X", BYTES, (-1, -1)), TensorSpec("I", INT64, (-1,))
    signature = Signature(spec, (TensorSpec("Y", BYTES, (-1, -1)),), batched=False)
    session = Session(path, SessionConfig(device=Device.CPU))
    return MovedStrings(OnnxBackend(session, signature))


@given(elements=st.lists(st.binary(max_size=9), min_size=1, max_size=5))
def test_any_bytes_go_through(moving: MovedStrings, elements: list[bytes]) -> None:
    """NUL, broken UTF-8, emptiness: every element comes out as it went in."""
    array = np.empty((1, len(elements)), dtype=object)
    array[0] = elements
    order = np.arange(len(elements))[::-1].copy()
    answer = moving.run({"X": array, "I": order}, ["Y"], Interrupt())["Y"]
    assert answer.tolist() == [elements, elements[::-1]]
