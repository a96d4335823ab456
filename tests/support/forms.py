"""Small models whose tensors come in other forms than usual: optional, reshaped, strings.

As in tests.support.models, what takes X and gives Y says nothing more.
"""

import numpy as np
from onnx import TensorProto, helper

from service.tensors import BOOL, BYTES, FP32
from tests.support.models import onnx_model, serialised_graph

_ROWS = ("batch", 1)
_DEFAULT = {"D": np.array([[7]], np.float32)}


def known() -> bytes:
    """BYTES [batch,n]: Y tells which elements are the word "known"; it looks into its strings."""
    return onnx_model(
        [helper.make_node("Equal", ["X", "word"], ["Y"])],
        [("X", BYTES, ("batch", "n"))],
        [("Y", BOOL, ("batch", "n"))],
        {"word": np.array(["known"], object)},
    )


def with_default() -> bytes:
    """FP32 [batch,1]: Y is X + D; D, which config.pbtxt has to name, is 7 if it is left out."""
    return onnx_model(
        [helper.make_node("Add", ["X", "D"], ["Y"])],
        [("X", FP32, _ROWS), ("D", FP32, _ROWS)],
        [("Y", FP32, _ROWS)],
        _DEFAULT,
    )


def all_default() -> bytes:
    """FP32 [batch,1]: Y is D, which is 7 if it is left out; config.pbtxt has to name it."""
    node = helper.make_node("Identity", ["D"], ["Y"])
    return onnx_model([node], [("D", FP32, _ROWS)], [("Y", FP32, _ROWS)], _DEFAULT)


def optional_type() -> bytes:
    """FP32 [batch,1]: Y is X + O, or 2 X without O, which the graph declares to be optional."""
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, list(_ROWS))
    plain = [helper.make_value_info(name, kind) for name in ("X", "Y", "given", "left_out")]
    x, y, given, left_out = plain
    nodes = [
        helper.make_node("OptionalHasElement", ["O"], ["is_given"]),
        helper.make_node(
            "If",
            ["is_given"],
            ["Z"],
            then_branch=helper.make_graph(
                [helper.make_node("OptionalGetElement", ["O"], ["given"])], "then", [], [given]
            ),
            else_branch=helper.make_graph(
                [helper.make_node("Identity", ["X"], ["left_out"])], "else", [], [left_out]
            ),
        ),
        helper.make_node("Add", ["X", "Z"], ["Y"]),
    ]
    optional = helper.make_value_info("O", helper.make_optional_type_proto(kind))
    return serialised_graph(helper.make_graph(nodes, "graph", [x, optional], [y]))


def row_numbers() -> bytes:
    """FP32 [batch]: Y is X + 1, of rank 1: a number a row."""
    one = {"one": np.array(1, np.float32)}
    node = helper.make_node("Add", ["X", "one"], ["Y"])
    return onnx_model([node], [("X", FP32, ("batch",))], [("Y", FP32, ("batch",))], one)


def fixed_image() -> bytes:
    """FP32 [1,2,3] to [1,6,1,1]: Y has the elements of X; the batch is fixed to one."""
    shape = {"shape": np.array([1, 6, 1, 1], np.int64)}
    node = helper.make_node("Reshape", ["X", "shape"], ["Y"])
    return onnx_model([node], [("X", FP32, (1, 2, 3))], [("Y", FP32, (1, 6, 1, 1))], shape)


def flat_pairs() -> bytes:
    """FP32 [batch,n,2]: Y is X."""
    shape = ("batch", "n", 2)
    node = helper.make_node("Identity", ["X"], ["Y"])
    return onnx_model([node], [("X", FP32, shape)], [("Y", FP32, shape)])
