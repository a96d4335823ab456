"""Requests recognised by their bytes decode to what parsing them would give, or not at all."""

from dataclasses import replace
from unittest.mock import sentinel

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.errors import RequestError
from service.inference.request import batch_key
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.codec import parse_request
from service.rpc.decoding import decode_request
from service.rpc.parameters import RequestParameters
from service.rpc.plan import Plan, Plans, SharedPlan, cut_message, planned_inputs
from service.rpc.regions import Region, Regions, SystemOrigin
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
from tests.support.shared import place

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
    judged = decode_request("m", signature, request)
    inputs = judged.inputs
    planned = planned_inputs(signature, inputs, judged.sources)
    assert planned
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
    assert_equal(decoded, decode_request("m", signature, parse_request(second)).inputs)


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
    assert_equal(decoded, decode_request("m", signature, request).inputs)
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
    assert_equal(decoded, decode_request("m", signature, request).inputs)


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


def test_typed_requests_are_no_plans() -> None:
    """Typed contents are in the head: a long one is not cut, a short one has no raw contents."""
    short, long = (
        typed_request("m", {"X": (FP32, np.zeros((1, extent), np.float32))}) for extent in (4, 2000)
    )
    cut = cut_message(short.SerializeToString())
    assert cut is not None
    assert (cut.head, cut.raws) == (short.SerializeToString(), [])
    assert cut_message(long.SerializeToString()) is None


def shared_plan() -> tuple[bytes, SharedPlan, Regions]:
    """Return a request with A in shared memory and B in the message, and its plan."""
    regions = Regions(enabled=True, limit=2, max_read_bytes=100)
    regions.register(Region("r", CountingMemory(), 100, SystemOrigin("/k", 0)))
    sent = {name: (FP32, np.zeros((1, 2), np.float32)) for name in ("A", "B")}
    request = raw_request("m", sent, request_id="id")
    place(request.inputs[0], "r", 8, 4)
    del request.raw_input_contents[0]
    signature = signature_of(sent)
    judged = decode_request("m", signature, request, regions)
    inputs = judged.inputs
    planned = planned_inputs(signature, inputs, judged.sources)
    plan = SharedPlan(
        sentinel.served,
        planned,
        ("A",),
        1,
        batch_key(signature, inputs),
        RequestParameters(),
        regions=regions,
        regions_generation=regions.generation,
    )
    return request.SerializeToString(), plan, regions


class CountingMemory:
    """Memory of bytes that count up, from one more at each look."""

    def __init__(self) -> None:
        self.looks = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return what is there now."""
        self.looks += 1
        return bytes(range(offset + self.looks, offset + self.looks + size))

    def write(self, offset: int, contents: bytes) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Close nothing."""


def test_shared_memory_is_read_for_each_request() -> None:
    """A plan has where an input is, not what it was; the others are views on the message."""
    message, plan, _ = shared_plan()
    cut = cut_message(message)
    assert cut is not None
    for look in (2, 3):  # the first was when the request was judged
        inputs = plan.decode(message, cut)
        assert inputs is not None
        assert inputs["A"].tobytes() == bytes(range(4 + look, 12 + look))
        assert inputs["B"].tolist() == [[0, 0]]
        assert list(inputs) == ["A", "B"]


def test_plan_with_shared_memory_ends_with_its_names() -> None:
    """When a region comes or goes, a request is judged anew: its name may mean another one."""
    message, plan, regions = shared_plan()
    cut = cut_message(message)
    assert cut is not None
    assert plan.decode(message, cut._replace(raws=[])) is None
    assert plan.decode(message, cut._replace(raws=[(0, 7)])) is None
    regions.register(Region("other", CountingMemory(), 1, SystemOrigin("/o", 0)))
    assert plan.decode(message, cut) is None
    again = replace(plan, regions_generation=regions.generation)
    assert again.decode(message, cut) is not None
    regions.close()
    closed = replace(plan, regions_generation=regions.generation)
    assert closed.decode(message, cut) is None


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
