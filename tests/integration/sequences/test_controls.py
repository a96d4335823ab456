"""Control inputs over the wire, their types, and models that answer at the end alone."""

import grpc
import pytest

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import INT32
from tests.support.requests import answer
from tests.support.sequences import step
from tests.support.stub import WAIT_S, Stub, refusal

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def send(
    model: str, value: int, name: int | str, *, start: bool = False, end: bool = False
) -> ModelInferRequest:
    """Return a request to one of Triton's examples."""
    return step(model, value, name, start=start, end=end, datatype=INT32, tensor="INPUT")


def output(stub: Stub, request: ModelInferRequest) -> int:
    """Return what a model answers."""
    return int(answer(stub.infer(request, timeout=WAIT_S), "OUTPUT")[0, 0])


def test_start_and_ready_with_strategy_direct(stub: Stub) -> None:
    """A graph without state sees START in its row, and READY in the rows that are meant."""
    for name in (1, 2, 3):
        assert output(stub, send("started", 10 * name, name, start=True)) == 10 * name + 1
    assert output(stub, send("started", 7, 3)) == 7  # rows 0 and 1 are empty
    for name in (1, 2, 3):
        assert output(stub, send("started", 5, name, end=True)) == 5


def test_end_and_id_of_a_number(stub: Stub) -> None:
    """The graph sees END and the id."""
    model = "simple_dyna_sequence"
    assert output(stub, send(model, 3, 1001, start=True)) == 4
    assert output(stub, send(model, 3, 1001)) == 3
    assert output(stub, send(model, 3, 1001, end=True)) == 3 + 1001


def test_end_and_id_of_a_text(stub: Stub) -> None:
    """The graph sees an id that is a text, and its state is the server's."""
    model = "simple_string_dyna_sequence"
    assert output(stub, send(model, 3, "17", start=True)) == 3
    assert output(stub, send(model, 4, "17")) == 7
    assert output(stub, send(model, 5, "17", end=True)) == 12 + 17


@pytest.mark.parametrize(
    ("model", "name", "given", "expected"),
    [
        ("simple_dyna_sequence", "text", "BYTES", "UINT64"),
        ("simple_string_dyna_sequence", 5, "UINT64", "BYTES"),
    ],
)
def test_id_of_the_wrong_type_is_refused(
    stub: Stub, model: str, name: int | str, given: str, expected: str
) -> None:
    """A model that sees the id takes ids of its own type alone; the text is Triton's."""
    code, text = refusal(stub.infer, send(model, 1, name, start=True))
    assert code is INVALID
    assert text == (
        f"sequence batching control 'CORRID' data-type is '{given}', but model '{model}' expects "
        f"'{expected}'"
    )


def test_answer_at_the_end_alone(stub: Stub) -> None:
    """With response_policy final a stream of many steps has one answer, that of the last."""
    requests = [step("at_end", v, 5, start=v == 1, end=v == 9) for v in range(1, 10)]
    requests.insert(4, step("at_end", 1, 6))  # errors are told all the same
    replies = list(stub.stream(iter(requests), timeout=WAIT_S))
    assert len(replies) == 2
    assert "must specify the START flag" in replies[0].error_message
    last = replies[1].infer_response
    assert answer(last)[0, 0] == sum(range(1, 10))
    assert last.parameters["triton_final_response"].bool_param


def test_empty_answers_are_given_to_who_asks_for_them(stub: Stub) -> None:
    """A client that wants to know the end of every request is told it, in order."""
    requests = [step("at_end", v, 7, start=v == 1, end=v == 3) for v in (1, 2, 3)]
    for number, request in enumerate(requests):
        request.id = str(number)
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    replies = [r.infer_response for r in stub.stream(iter(requests), timeout=WAIT_S)]
    assert [(r.id, len(r.outputs)) for r in replies] == [("0", 0), ("1", 0), ("2", 1)]
    assert all(r.parameters["triton_final_response"].bool_param for r in replies)
    assert answer(replies[2])[0, 0] == 6


def test_calls_are_answered_without_outputs(stub: Stub) -> None:
    """A call of its own has an answer, which is empty until the END."""
    first = stub.infer(step("at_end", 4, 8, start=True), timeout=WAIT_S)
    assert (first.model_name, first.model_version, list(first.outputs)) == ("at_end", "1", [])
    assert answer(stub.infer(step("at_end", 5, 8, end=True), timeout=WAIT_S))[0, 0] == 9
