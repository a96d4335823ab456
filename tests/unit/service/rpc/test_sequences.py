"""Which sequence a request belongs to."""

from types import SimpleNamespace
from typing import Any

import pytest

from service.inference.request import SequenceStep
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.repository.sequences import Scope, SequenceSpec
from service.rpc.parameters import RequestParameters
from service.rpc.sequences import Placed
from tests.support.sequence_rig import TOTAL, VISIBLE


@pytest.mark.parametrize(
    "wanted",
    [None, SequenceStep(0, start=False, end=False), SequenceStep("", start=False, end=False)],
)
def test_a_stream_has_one_sequence_without_an_id(wanted: SequenceStep | None) -> None:
    """No id, 0 and "" all name the stream's own sequence."""
    stream = object()
    spec = SequenceSpec((TOTAL,), scope=Scope.STREAM)
    engine = SimpleNamespace(spec=spec, hidden_inputs=frozenset(), signature=VISIBLE)
    model: Any = SimpleNamespace(name="m", sequences=engine, signature=VISIBLE)
    placed = Placed(stream, stream_state=False)
    parameters = RequestParameters(sequence=wanted)
    found, _ = placed.step_of(model, ModelInferRequest(), parameters)
    step = found.sequence
    assert step is not None
    assert (step.scope, step.id, type(step.id)) == (stream, 0, int)
