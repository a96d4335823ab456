"""Graphs that come with names of their own."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.sources.graph import clean_name, number_names


def _model(names: dict[str, str], weights: list[str]) -> bytes:
    """Return x + a, then a branch that adds b or c; names and order are the caller's."""
    n = names
    branches = [
        helper.make_graph(
            [helper.make_node("Add", [n["sum"], n[weight]], [n[out]], name=n[out])], n[out], [],
            [helper.make_tensor_value_info(n[out], TensorProto.FLOAT, None)],
        )
        for weight, out in (("b", "then"), ("c", "else"))
    ]  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", n["a"]], [n["sum"]], name=n["sum"]),
            helper.make_node("If", ["is_b"], ["y"], then_branch=branches[0],
                             else_branch=branches[1]),
        ], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n",)),
         helper.make_tensor_value_info("is_b", TensorProto.BOOL, ())],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("n",))],
        [numpy_helper.from_array(np.full(1, ord(w), np.float32), n[w]) for w in weights],
    )  # fmt: skip
    model = ir.from_proto(helper.make_model(graph, ir_version=10))
    number_names(model)
    proto: onnx.ModelProto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def test_names_and_order_of_converters_do_not_matter() -> None:
    """Equal graphs give equal bytes, whatever their values are called and where weights stand."""
    keys = ("a", "b", "c", "sum", "then", "else")
    plain = _model({key: key for key in keys}, ["a", "b", "c"])
    other = _model({key: f"{key}/4f1c" for key in keys}, ["c", "a", "b"])
    assert plain == other


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [("Identity:0", "Identity_0"), ("a/b c", "a_b_c"), ("0", "_0"), ("\u00e9", "_"), ("", "_")],
)
def test_names_that_cannot_be_become_near_ones(name: str, cleaned: str) -> None:
    """What no tensor may be called is replaced, character by character."""
    assert clean_name(name) == cleaned
