"""Requests of sequences recognised by their bytes: what is remembered, and what is judged anew."""

from typing import cast

import numpy as np
import pytest

from service.inference.request import SequenceStep, batch_key
from service.inference.sequences.engine import SequenceEngine
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.repository.sequences import Scope, SequenceSpec
from service.rpc.parameters import RequestParameters
from service.rpc.plan import Cut, Plan, cut_message, planned_inputs
from service.rpc.sequences import Placed
from service.rpc.served import ServedModel
from service.rpc.step_plans import StepPlans
from service.tensors import FP32, Signature, TensorSpec
from tests.support.sequences import step

SIGNATURE = Signature((TensorSpec("X", FP32, (-1, 1)),), (TensorSpec("Y", FP32, (-1, 1)),), True)
CALL = Placed(None, stream_state=False)


class Known:
    """Plans that know requests of one model."""

    def __init__(self, scope: Scope = Scope.DEFAULT, *, is_inferred: bool = False) -> None:
        engine = type("Engine", (), {})()
        engine.spec = SequenceSpec((), scope=scope, is_inferred=is_inferred)
        model = type("Model", (), {})()
        model.sequences = cast("SequenceEngine", engine)
        served = type("Served", (), {})()
        served.model = model
        inputs = {"X": np.zeros((1, 1), np.float32)}
        planned = planned_inputs(SIGNATURE, inputs, {"X": b"\0" * 4})
        key = batch_key(SIGNATURE, inputs)
        parameters = RequestParameters(sequence=SequenceStep(1, start=True, end=False))
        self.plan = Plan(cast("ServedModel", served), planned, ("Y",), 1, key, parameters, 3)
        self.plans = StepPlans()
        self.plans.keep(cut(step("m", 1, 1, start=True)), self.plan)

    def find(self, request: ModelInferRequest, placed: Placed = CALL) -> SequenceStep | None:
        """Return the step that a request is found to be."""
        plan = self.plans.find(cut(request), 3, placed)
        if plan is None:
            return None
        assert (plan.inputs, plan.outputs) == (self.plan.inputs, self.plan.outputs)
        return plan.parameters.sequence


def cut(request: ModelInferRequest) -> Cut:
    """Cut a request as libraries write it."""
    found = cut_message(request.SerializeToString(deterministic=True))
    assert found is not None
    return found


@pytest.mark.parametrize("request_id", ["", "x", "a longer id than the parameters are long" * 5])
def test_steps_differ_in_their_parameters_alone(request_id: str) -> None:
    """Any step of any sequence of the model is found by what is left of its head."""
    known = Known()
    for name, start, end in ((1, True, False), (2, False, False), ("two", False, True)):
        request = step("m", 5, name, start=start, end=end, request_id=request_id)
        for _ in range(2):  # judged and remembered
            assert known.find(request) == SequenceStep(name, start=start, end=end)


def test_parameters_are_cut_out_exactly() -> None:
    """What is left of a head is the request without parameters, and the part is theirs alone."""
    request = step("m", 5, "id", start=True, request_id="request")
    found = cut(request)
    start, end = found.parameters
    assert ModelInferRequest.FromString(found.head[start:end]).parameters == request.parameters
    bare = step("m", 5, "id", start=True)
    bare.parameters.clear()
    assert found.bare_head == cut(bare).head == cut(bare).bare_head


def test_other_parameters_count_as_well() -> None:
    """Priority and timeout are read of each request."""
    request = step("m", 5, 7)
    request.parameters["timeout"].int64_param = 1500
    plan = Known().plans.find(cut(request), 3, CALL)
    assert plan is not None
    assert plan.parameters.timeout_us == 1500


def test_wrong_parameters_are_left_to_the_judge() -> None:
    """A request whose parameters are wrong is no known one: who judges it says what is wrong."""
    request = step("m", 5, 7)
    request.parameters["sequence_start"].int64_param = 1
    assert Known().find(request) is None


def test_scope_is_where_a_request_comes_in() -> None:
    """The same bytes are a step of the stream that they come on, and of none without one."""
    stream, bare = object(), step("m", 5)
    known = Known(Scope.STREAM)
    assert known.find(bare, Placed(stream, stream_state=False)) == SequenceStep(
        0, start=False, end=False, scope=stream
    )
    assert known.find(bare) is None
    by_flag = Known()
    assert by_flag.find(bare, Placed(stream, stream_state=False)) is None
    found = by_flag.find(step("m", 5, 9), Placed(stream, stream_state=True))
    assert found == SequenceStep(9, start=False, end=False, scope=stream)
    by_id = Known(Scope.ID)
    assert by_id.find(bare, Placed(stream, stream_state=True)) is None


def test_request_without_an_id_is_no_step_of_an_inferred_model() -> None:
    """What brings no id to a model that can do without is judged as an ordinary request."""
    known = Known(is_inferred=True)
    assert known.find(step("m", 5, 0, start=True)) is None
    assert known.find(step("m", 5, 4)) == SequenceStep(4, start=False, end=False)


def test_plans_of_an_old_generation_are_forgotten() -> None:
    """What was found before the served versions changed is not found any more."""
    known = Known()
    assert known.plans.find(cut(step("m", 5, 1)), 4, CALL) is None
