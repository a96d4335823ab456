"""Requests recognised by their bytes decode to what parsing them would give, or not at all."""

from unittest.mock import sentinel

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.errors import RequestError
from service.inference.request import batch_key
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.codec import decode_inputs, parse_request
from service.rpc.parameters import RequestParameters
from service.rpc.plan import Plan, Plans, cut_message, planned_inputs
from service.rpc.wire import length_delimited
from service.tensors import (
    BF16,
    FP16,
    FP32,
    INT8,
    INT64,
    Array,
    Datatype,
    Signature,
    Tensors,
    TensorSpec,
)
from tests.support.requests import raw_request, typed_request

PLANNED = [FP32, INT64, INT8, FP16, BF16]
SHAPES = npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
IDS = st.one_of(st.just(""), st.text(max_size=5), st.text(min_size=120, max_size=200))


@st.composite
def pairs(
    draw: st.DrawFn,
) -> tuple[dict[str, tuple[Datatype, Array]], dict[str, tuple[Datatype, Array]]]:
    """Draw the inputs of two requests of one shape."""
    first, second = {}, {}
    for name in draw(st.sampled_from([("X",), ("A", "B")])):
        datatype, shape = draw(st.sampled_from(PLANNED)), draw(SHAPES)
        first[name] = datatype, draw(npst.arrays(datatype.numpy, shape))
        second[name] = datatype, draw(npst.arrays(datatype.numpy, shape))
    return first, second


def plan_of(message: bytes, signature: Signature) -> tuple[bytes, Plan]:
    """Return the head of a good request and the plan that is kept for it."""
    request = parse_request(message)
    inputs = decode_inputs("m", signature, request)
    planned = planned_inputs(signature, inputs, [tensor.name for tensor in request.inputs])
    assert planned is not None
    cut = cut_message(message)
    assert cut is not None
    key = batch_key(signature, inputs)
    return cut.head, Plan(sentinel.served, planned, ("X",), 1, key, RequestParameters())


def signature_of(tensors: dict[str, tuple[Datatype, Array]]) -> Signature:
    """Return a signature that takes these tensors in any shape."""
    specs = tuple(
        TensorSpec(name, datatype, (-1,) * array.ndim)
        for name, (datatype, array) in tensors.items()
    )
    return Signature(specs, specs, batched=False)


def assert_equal(got: Tensors, want: Tensors) -> None:
    """Fail unless two sets of tensors are the same, bit for bit and in order."""
    assert list(got) == list(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes()


@given(pairs(), IDS, IDS)
def test_second_request_of_a_shape_is_recognised(
    inputs: tuple[dict[str, tuple[Datatype, Array]], dict[str, tuple[Datatype, Array]]],
    first_id: str,
    second_id: str,
) -> None:
    """Whatever its id and contents, it has the head of the first and decodes as if parsed."""
    signature = signature_of(inputs[0])
    first = raw_request("m", inputs[0], request_id=first_id).SerializeToString()
    second = raw_request("m", inputs[1], request_id=second_id).SerializeToString()
    head, plan = plan_of(first, signature)
    cut = cut_message(second)
    assert cut is not None
    assert cut.head == head
    assert cut.request_id == second_id.encode()
    decoded = plan.decode(second, cut)
    assert decoded is not None
    assert_equal(decoded, decode_inputs("m", signature, parse_request(second)))


@settings(max_examples=500)
@given(st.data())
def test_damaged_request_is_never_taken_for_another(data: st.DataObject) -> None:
    """If changed bytes still meet a plan, then parsing them gives exactly the same tensors."""
    sent = {"X": (FP32, np.arange(3, dtype=np.float32).reshape(1, 3))}
    signature = signature_of(sent)
    good = raw_request("m", sent, request_id="id").SerializeToString()
    head, plan = plan_of(good, signature)
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        if data.draw(st.booleans()):
            damaged[at] = data.draw(st.integers(0, 255))
        else:
            damaged[at:at] = data.draw(st.binary(max_size=4))
    message = bytes(damaged)
    cut = cut_message(message)
    if cut is None or cut.head != head or (decoded := plan.decode(message, cut)) is None:
        return
    try:
        request = parse_request(message)
    except RequestError:
        with pytest.raises(UnicodeDecodeError):  # the id: looked at before the plan is used
            cut.request_id.decode()
        return
    assert_equal(decoded, decode_inputs("m", signature, request))
    assert request.id.encode() == cut.request_id


_SENT = {"X": (FP32, np.arange(3, dtype=np.float32).reshape(1, 3))}
_PIECES = [
    length_delimited(1, b"m"),
    length_delimited(1, b"n"),
    length_delimited(2, b"2"),
    length_delimited(3, b"id"),
    length_delimited(3, b""),
    length_delimited(6, b""),
    length_delimited(7, bytes(12)),
    length_delimited(7, bytes(13)),
    length_delimited(9, b"of a newer protocol"),
    ModelInferRequest(inputs=raw_request("m", _SENT).inputs).SerializeToString(),
    b"\x08\x01",
]


@settings(max_examples=500)
@given(st.permutations(_PIECES), st.integers(0, len(_PIECES)), st.booleans())
def test_fields_in_any_order_are_never_taken_for_others(
    pieces: list[bytes],
    count: int,
    behind: bool,  # noqa: FBT001
) -> None:
    """Repeated, missing, misplaced and unknown fields meet a plan only if they mean the same."""
    signature = signature_of(_SENT)
    good = raw_request("m", _SENT).SerializeToString()
    head, plan = plan_of(good, signature)
    message = b"".join(([good] if behind else []) + pieces[:count])
    cut = cut_message(message)
    if cut is None or cut.head != head or (decoded := plan.decode(message, cut)) is None:
        return
    request = parse_request(message)
    assert (request.model_name, request.model_version, len(request.outputs)) == ("m", "", 0)
    assert request.id.encode() == cut.request_id
    assert_equal(decoded, decode_inputs("m", signature, request))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_cut_or_not(message: bytes) -> None:
    """No bytes crash the cutter, and what it cuts lies inside of the message."""
    cut = cut_message(message)
    if cut is not None:
        assert all(0 <= start <= end <= len(message) for start, end in cut.raws)


@pytest.mark.parametrize(
    "change",
    ["version", "outputs", "parameters", "shape", "datatype", "name", "model", "input parameters"],
)
def test_any_other_difference_is_another_head(change: str) -> None:
    """Requests that differ in more than id and contents never share a plan."""
    sent = {"X": (FP32, np.zeros((1, 4), np.float32))}
    request = raw_request("m", sent)
    had = cut_message(request.SerializeToString())
    if change == "version":
        request.model_version = "2"
    elif change == "outputs":
        request.outputs.add(name="Y")
    elif change == "parameters":
        request.parameters["priority"].int64_param = 1
    elif change == "shape":
        request.inputs[0].shape[:] = (4, 1)
    elif change == "datatype":
        request.inputs[0].datatype = "INT32"
    elif change == "name":
        request.inputs[0].name = "Z"
    elif change == "model":
        request.model_name = "n"
    else:
        request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    has = cut_message(request.SerializeToString())
    assert had is not None
    assert has is not None
    assert had.head != has.head


def test_typed_requests_are_not_cut() -> None:
    """A request without raw contents is left to the parser."""
    sent = {"X": (FP32, np.zeros((1, 4), np.float32))}
    assert cut_message(typed_request("m", sent).SerializeToString()) is None


def test_other_sizes_are_not_decoded() -> None:
    """Contents of another size than the head says are left to the judge, who refuses them."""
    sent = {"X": (FP32, np.zeros((1, 4), np.float32))}
    request = raw_request("m", sent)
    _, plan = plan_of(request.SerializeToString(), signature_of(sent))
    for raws in ([b""], [bytes(12)], [bytes(16)] * 2, [bytes(17)]):
        del request.raw_input_contents[:]
        request.raw_input_contents.extend(raws)
        message = request.SerializeToString()
        cut = cut_message(message)
        assert cut is None or plan.decode(message, cut) is None


def test_plans_are_forgotten_when_the_models_change() -> None:
    """A plan that was made for one generation of models is not used in the next."""
    plans = Plans()
    plan = Plan(sentinel.served, (), (), 1, (), RequestParameters())
    assert plans.get(b"head", 1) is None
    plans.keep(b"head", plan)
    assert plans.get(b"head", 1) is plan
    assert plans.get(b"head", 2) is None
    assert plans.get(b"head", 1) is None


def test_plans_are_bounded() -> None:
    """Neither many heads nor large ones fill the memory."""
    plans = Plans()
    plan = Plan(sentinel.served, (), (), 1, (), RequestParameters())
    plans.get(b"", 1)
    plans.keep(b"x" * 5000, plan)
    assert plans.get(b"x" * 5000, 1) is None
    for index in range(2000):
        plans.keep(b"%d" % index, plan)
    assert sum(plans.get(b"%d" % index, 1) is not None for index in range(2000)) <= 512
