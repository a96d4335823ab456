"""Small models with states and controls, their configurations, and requests of sequences."""

from typing import Any

import numpy as np
from onnx import helper

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import FP32, INT32, INT64, Array
from tests.support.models import onnx_model
from tests.support.requests import one, raw_request

ROWS = 16  # of the table of `poisonable`

TOTAL_STATE = """
  state { input_name: "total_in" output_name: "total_out" data_type: TYPE_FP32 dims: 1 }
"""

POISONABLE_CONFIG = f"""
name: "poisonable" max_batch_size: 8
input {{ name: "X" data_type: TYPE_INT64 dims: 1 }}
output {{ name: "Y" data_type: TYPE_FP32 dims: 1 }}
sequence_batching {{
  max_sequence_idle_microseconds: 60000000 {TOTAL_STATE} oldest {{ }}
}}
"""

STARTED_CONFIG = """
name: "started" max_batch_size: 4
input { name: "INPUT" data_type: TYPE_INT32 dims: 1 }
output { name: "OUTPUT" data_type: TYPE_INT32 dims: 1 }
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  control_input {
    name: "START" control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }
  }
  control_input {
    name: "READY" control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] }
  }
}
"""


def accumulator() -> bytes:
    """FP32 [batch,1]: Y is the sum of every X so far, which is also the state."""
    nodes = [
        helper.make_node("Add", ["X", "total_in"], ["Y"]),
        helper.make_node("Identity", ["Y"], ["total_out"]),
    ]
    shape = ("batch", 1)
    return onnx_model(
        nodes,
        [("X", FP32, shape), ("total_in", FP32, shape)],
        [("Y", FP32, shape), ("total_out", FP32, shape)],
    )


def accumulator_config(
    name: str, strategy: str = "oldest { }", extra: str = "", rows: int = 8
) -> str:
    """Return the config.pbtxt of an accumulator with a state. extra: outside sequence_batching."""
    return f"""
    name: "{name}" max_batch_size: {rows}
    input {{ name: "X" data_type: TYPE_FP32 dims: 1 }}
    output {{ name: "Y" data_type: TYPE_FP32 dims: 1 }}
    sequence_batching {{ {TOTAL_STATE} {strategy} }} {extra}
    """


def poisonable() -> bytes:
    """INT64 [batch,1] up to ROWS: Y is the sum of every X so far; a larger X fails the run."""
    nodes = [
        helper.make_node("Gather", ["table", "X"], ["value"], axis=0),
        helper.make_node("Add", ["value", "total_in"], ["Y"]),
        helper.make_node("Identity", ["Y"], ["total_out"]),
    ]
    shape = ("batch", 1)
    return onnx_model(
        nodes,
        [("X", INT64, shape), ("total_in", FP32, shape)],
        [("Y", FP32, shape), ("total_out", FP32, shape)],
        {"table": np.arange(ROWS, dtype=np.float32)},
    )


def crossed() -> bytes:
    """Two states of unlike shapes whose inputs and outputs sort differently by name.

    cache [batch,2] has the last two X; cache_len [batch,1] counts steps. Y is their sum.
    """
    nodes = [
        helper.make_node("Slice", ["cache", "one", "two", "one"], ["last"]),
        helper.make_node("Concat", ["last", "X"], ["cache_next"], axis=1),
        helper.make_node("Add", ["cache_len", "step"], ["cache_len_next"]),
        helper.make_node("ReduceSum", ["cache_next", "one"], ["sum"], keepdims=1),
        helper.make_node("Add", ["sum", "cache_len_next"], ["Y"]),
    ]
    return onnx_model(
        nodes,
        [
            ("X", FP32, ("batch", 1)),
            ("cache", FP32, ("batch", 2)),
            ("cache_len", FP32, ("batch", 1)),
        ],
        [
            ("Y", FP32, ("batch", 1)),
            ("cache_len_next", FP32, ("batch", 1)),
            ("cache_next", FP32, ("batch", 2)),
        ],
        {
            "one": np.array([1], np.int64),
            "two": np.array([2], np.int64),
            "step": np.array(1, np.float32),
        },
    )


def growing() -> bytes:
    """Cache every X: Y [batch,1] is the sum of all so far, the state one wider with each step."""
    nodes = [
        helper.make_node("Concat", ["past_x", "X"], ["present_x"], axis=1),
        helper.make_node("ReduceSum", ["present_x", "one"], ["Y"], keepdims=1),
    ]
    return onnx_model(
        nodes,
        [("X", FP32, ("batch", 1)), ("past_x", FP32, ("batch", "past"))],
        [("Y", FP32, ("batch", 1)), ("present_x", FP32, ("batch", "total"))],
        {"one": np.array([1], np.int64)},
    )


def gru(hidden: int = 4, features: int = 3, seed: int = 5, time: int | str = "time") -> bytes:
    """Return a GRU as exporters write one: x [batch,time,features] and h0 [1,batch,hidden].

    y [batch,time,hidden] has every state, hn [1,batch,hidden] the last.
    """
    random = np.random.default_rng(seed)
    weights: dict[str, Array] = {
        "W": random.standard_normal((1, 3 * hidden, features)).astype(np.float32),
        "R": random.standard_normal((1, 3 * hidden, hidden)).astype(np.float32),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node(
            "GRU", ["steps", "W", "R", "", "", "h0"], ["all", "hn"], hidden_size=hidden
        ),
        helper.make_node("Squeeze", ["all", "axes"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["y"], perm=[1, 0, 2]),
    ]
    state = (1, "batch", hidden)
    return onnx_model(
        nodes,
        [("x", FP32, ("batch", time, features)), ("h0", FP32, state)],
        [("y", FP32, ("batch", time, hidden)), ("hn", FP32, state)],
        weights,
    )


def started() -> bytes:
    """OUTPUT is READY x (INPUT + START), all INT32 [batch,1]; no state."""
    nodes = [
        helper.make_node("Add", ["INPUT", "START"], ["sum"]),
        helper.make_node("Mul", ["sum", "READY"], ["OUTPUT"]),
    ]
    shape = ("batch", 1)
    return onnx_model(
        nodes,
        [("INPUT", INT32, shape), ("START", INT32, shape), ("READY", INT32, shape)],
        [("OUTPUT", INT32, shape)],
    )


def step(
    model: str,
    value: float | Array,
    name: int | str | None = None,
    *,
    start: bool = False,
    end: bool = False,
    datatype: Any = FP32,
    tensor: str = "X",
    request_id: str = "",
    version: str = "",
) -> ModelInferRequest:
    """Return a request of a sequence; name: None for the one of its stream."""
    array = value if isinstance(value, np.ndarray) else np.full((1, 1), value, datatype.numpy)
    request = raw_request(model, one(datatype, array, tensor), request_id=request_id)
    request.model_version = version
    if isinstance(name, str):
        request.parameters["sequence_id"].string_param = name
    elif name is not None:
        request.parameters["sequence_id"].int64_param = name
    if start or name is not None:
        request.parameters["sequence_start"].bool_param = start
    if end or name is not None:
        request.parameters["sequence_end"].bool_param = end
    return request
