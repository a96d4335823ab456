"""Sequences by id, over calls and streams: what is kept, what is refused, what goes on."""

import re

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelConfigRequest, ModelInferRequest, ModelMetadataRequest
from service.tensors import FP32, INT64
from tests.support.requests import answer, one, raw_request
from tests.support.rest import infer_as, response_of
from tests.support.sequences import ROWS, step
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Stub, refusal
from tests.support.waiting import eventually

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def total(stub: Stub, request: ModelInferRequest) -> float:
    """Send a step and return its answer."""
    return float(answer(stub.infer(request, timeout=WAIT_S))[0, 0])


def counted(server: RunningServer, what: str, model: str) -> float:
    """Return a metric of the sequences of a model."""
    return server.sample(f"penstock_sequences_{what}", model=model, version="1")


def not_started(name: object, model: str = "total") -> str:
    """Return the text of Triton for a sequence that was not started."""
    return (
        f"inference request for sequence {name} to model '{model}' must specify the START flag on "
        "the first request of the sequence"
    )


def test_state_goes_from_request_to_request(stub: Stub) -> None:
    """Every answer of a sequence is the sum of all its requests, and no longer after its END."""
    sums = [total(stub, step("total", i, 42, start=i == 1, end=i == 4)) for i in range(1, 5)]
    assert sums == [1, 3, 6, 10]
    assert refusal(stub.infer, step("total", 1, 42)) == (INVALID, not_started(42))


def test_start_and_end_in_one_request(stub: Stub) -> None:
    """A request that starts and ends its sequence is a whole one, and leaves nothing behind."""
    for _ in range(2):
        assert total(stub, step("total", 5, 1, start=True, end=True)) == 5
    assert refusal(stub.infer, step("total", 1, 1)) == (INVALID, not_started(1))


def test_start_of_a_live_sequence_begins_anew(server: RunningServer, stub: Stub) -> None:
    """START on an id in progress replaces that sequence, with a warning a minute in the log."""
    assert total(stub, step("total", 5, 2, start=True)) == 5
    assert total(stub, step("total", 1, 2, start=True)) == 1
    assert total(stub, step("total", 1, 2, end=True)) == 2
    warns = re.compile("WARNING model total: sequence .* was started anew before its end")
    eventually(lambda: warns.search(server.log.read_text()) is not None, "a warning")


def test_number_and_its_text_are_two_sequences(stub: Stub) -> None:
    """Id 42 and id "42" do not meet, nor does an id with the highest bit."""
    for name, value in ((42, 1.0), ("42", 10.0), (-1, 100.0)):
        assert total(stub, step("total", value, name, start=True)) == value
    for name, value in ((42, 2.0), ("42", 20.0), (-1, 200.0)):
        assert total(stub, step("total", value / 2, name, end=True)) == value


@pytest.mark.parametrize("name", [0, "", None])
def test_request_without_an_id_is_refused(stub: Stub, name: int | str | None) -> None:
    """A model with sequences wants to know of which one a request is."""
    code, text = refusal(stub.infer, step("total", 1, name, start=True))
    assert code is INVALID
    assert text == (
        "inference request to model 'total' must specify a non-zero or non-empty correlation ID"
    )


def test_end_without_start_is_refused(stub: Stub) -> None:
    """END cannot be the first thing that is heard of a sequence, and END twice is just that."""
    assert refusal(stub.infer, step("total", 1, 9, end=True)) == (INVALID, not_started(9))
    assert total(stub, step("total", 1, 9, start=True)) == 1
    assert total(stub, step("total", 1, 9, end=True)) == 2
    assert refusal(stub.infer, step("total", 1, 9, end=True)) == (INVALID, not_started(9))


def test_several_rows_are_refused(stub: Stub) -> None:
    """A request of a sequence has one row; the sequence is none the worse for it."""
    total(stub, step("total", 1, 3, start=True))
    code, text = refusal(stub.infer, step("total", np.ones((2, 1), np.float32), 3))
    assert code is INVALID
    assert text == (
        "inference request to model 'total' must specify batch-size 1 due to requirements of "
        "sequence batcher"
    )
    assert total(stub, step("total", 1, 3, end=True)) == 2


def test_client_that_sends_a_state_is_refused(stub: Stub) -> None:
    """What the server keeps cannot be sent, by id or by a model that requires one."""
    both = {"X": (FP32, np.ones((1, 1), np.float32)), "total_in": (FP32, np.ones((1, 1), "<f4"))}
    code, text = refusal(stub.infer, raw_request("total", both))
    assert code is INVALID
    assert "input 'total_in' of model 'total' is kept by the server" in text
    request = raw_request("inferred", both)
    request.parameters["sequence_id"].int64_param = 5
    code, text = refusal(stub.infer, request)
    assert code is INVALID
    assert "input 'total_in' of model 'inferred' is kept by the server" in text


def test_state_is_no_output(stub: Stub) -> None:
    """The output of a state is not answered with, and cannot be asked for."""
    request = step("total", 1, 4, start=True, end=True)
    assert [o.name for o in stub.infer(request, timeout=WAIT_S).outputs] == ["Y"]
    request.outputs.add(name="total_out")
    code, text = refusal(stub.infer, request)
    assert code is INVALID
    assert text.endswith("unexpected inference output 'total_out' for model 'total'")


def test_states_are_not_in_the_metadata(stub: Stub) -> None:
    """Clients read of neither states nor controls; the configuration is complete."""
    metadata = stub.model_metadata(ModelMetadataRequest(name="total"), timeout=WAIT_S)
    assert [t.name for t in metadata.inputs] == ["X"]
    assert [t.name for t in metadata.outputs] == ["Y"]
    config = stub.model_config(ModelConfigRequest(name="brief"), timeout=WAIT_S).config
    assert config.sequence_batching.max_sequence_idle_microseconds == 100_000
    assert config.sequence_batching.oldest.max_candidate_sequences == 1024
    assert not config.HasField("dynamic_batching")


def test_idle_sequence_ends(server: RunningServer, stub: Stub) -> None:
    """A sequence that nobody sends to is ended, and the next request is told the limit."""
    reaped = counted(server, "reaped_total", "brief")
    total(stub, step("brief", 1, 5, start=True))
    eventually(lambda: counted(server, "reaped_total", "brief") > reaped, "the end of a sequence")
    assert counted(server, "open", "brief") == 0
    text = "no request for 0.1 s, which max_sequence_idle_microseconds allows"
    expected = f"{not_started(5, 'brief')}; the one before ended: {text}"
    assert refusal(stub.infer, step("brief", 1, 5)) == (INVALID, expected)


def test_parameters_of_sequences_mean_nothing_to_a_stateless_model(stub: Stub) -> None:
    """A model without states answers as ever, and keeps nothing."""
    for _ in range(2):
        request = step("stateless", np.full((1, 2), 7.0, np.float32), 8, end=True)
        assert answer(stub.infer(request, timeout=WAIT_S)).tolist() == [[7.0, 7.0]]


def test_failing_step_ends_its_sequence_alone(stub: Stub) -> None:
    """A run that fails is told, and so is the next request; another sequence goes on."""

    def send(value: int, name: int, *, start: bool = False, end: bool = False) -> ModelInferRequest:
        return step("poisonable", value, name, start=start, end=end, datatype=INT64)

    for name in (1, 2):
        total(stub, send(1, name, start=True))
    code, text = refusal(stub.infer, send(ROWS, 1))
    assert code is grpc.StatusCode.INTERNAL
    code, then = refusal(stub.infer, send(1, 1))
    assert code is INVALID
    expected = f"the one before ended: a request of it failed: {text}"
    assert then == f"{not_started(1, 'poisonable')}; {expected}"
    assert total(stub, send(2, 2, end=True)) == 3
    assert total(stub, send(4, 1, start=True, end=True)) == 4


def test_pipelined_steps_run_in_order(stub: Stub) -> None:
    """Many steps of one sequence at once on a stream are run one after another."""
    count = 300
    requests = [step("total", i, 77, start=i == 0, end=i == count - 1) for i in range(count)]
    replies = list(stub.stream(iter(requests), timeout=WAIT_S))
    sums = [answer(reply.infer_response)[0, 0] for reply in replies]
    assert sums == np.cumsum(range(count)).tolist()


def test_error_on_a_stream_costs_one_answer(stub: Stub) -> None:
    """A step without START is an error among the answers; the stream and the others go on."""
    requests = [
        step("total", 1, 80, start=True),
        step("total", 1, 81),
        step("total", 1, 80, end=True),
    ]
    replies = list(stub.stream(iter(requests), timeout=WAIT_S))
    assert [r.error_message for r in replies] == ["", not_started(81), ""]
    assert answer(replies[2].infer_response)[0, 0] == 2


def test_plain_requests_of_an_inferred_model_bring_their_state(stub: Stub) -> None:
    """A model whose states are only inferred can be called as before, state in and state out."""

    def send(state: float) -> ModelInferRequest:
        tensors = {
            "X": (FP32, np.ones((1, 1), "<f4")),
            "total_in": (FP32, np.full((1, 1), state, "<f4")),
        }
        return raw_request("inferred", tensors)

    for state in (0.0, 5.0, 5.0):
        response = stub.infer(send(state), timeout=WAIT_S)
        assert answer(response, "total_out")[0, 0] == state + 1
    assert total(stub, step("inferred", 3, 4, start=True)) == 3
    assert answer(stub.infer(send(7), timeout=WAIT_S), "total_out")[0, 0] == 8
    assert total(stub, step("inferred", 3, 4, end=True)) == 6


def test_forgotten_id_is_told(stub: Stub) -> None:
    """A request with neither id nor state says which state is missing, and where it may be."""
    code, text = refusal(stub.infer, raw_request("inferred", one(FP32, np.ones((1, 1), "<f4"))))
    assert code is INVALID
    assert "missing required input(s) ['total_in'] of model 'inferred', which are its state" in text
    assert "give a sequence_id" in text


@pytest.mark.parametrize("model", ["growing", "inferred"])
def test_interleaved_sequences_keep_their_states(stub: Stub, model: str) -> None:
    """Steps of many sequences in random order add up as if each were alone."""
    random = np.random.default_rng(3)
    values = random.integers(0, 100, (20, 12)).astype(float)
    order = random.permutation(np.repeat(np.arange(20), 12)).tolist()
    done = [0] * 20
    requests, expected = [], []
    for name in order:
        at = done[name]
        done[name] += 1
        requests.append(step(model, values[name, at], name + 1, start=at == 0, end=at == 11))
        expected.append(values[name, : at + 1].sum())
    replies = list(stub.stream(iter(requests), timeout=WAIT_S))
    assert [answer(r.infer_response)[0, 0] for r in replies] == expected


def test_states_are_paired_by_their_names_not_their_order(stub: Stub) -> None:
    """Two states of unlike shapes, whose outputs sort differently than their inputs, stay apart."""
    values = [3.0, 4.0, 5.0, 6.0]
    got = [
        total(stub, step("crossed", v, 6, start=i == 0, end=i == 3)) for i, v in enumerate(values)
    ]
    assert got == [3 + 1, 3 + 4 + 2, 4 + 5 + 3, 5 + 6 + 4]


def test_gru_with_its_batch_on_axis_1(stub: Stub) -> None:
    """A GRU fed step by step by its sequence gives what it gives for the whole at once."""
    whole = np.random.default_rng(1).standard_normal((1, 9, 3)).astype(np.float32)
    begin = {"x": (FP32, whole), "h0": (FP32, np.zeros((1, 1, 4), np.float32))}
    expected = answer(stub.infer(raw_request("gru", begin), timeout=WAIT_S), "y")
    for index in range(9):
        part = step("gru", whole[:, index : index + 1], "g", start=index == 0, tensor="x")
        got = answer(stub.infer(part, timeout=WAIT_S), "y")
        assert np.allclose(got[0, 0], expected[0, index], atol=1e-6)


def test_one_place_and_a_backlog_of_one(server: RunningServer, stub: Stub) -> None:
    """A second sequence waits for the first to end, a third is refused."""
    total(stub, step("single", 1, 1, start=True))
    waiting = stub.infer.future(step("single", 2, 2, start=True, end=True), timeout=WAIT_S)
    eventually(lambda: counted(server, "backlog", "single") == 1, "a sequence that waits")
    code, text = refusal(stub.infer, step("single", 3, 3, start=True, end=True))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert text == (
        "no room for another sequence of model 'single': 1 are in progress and 1 wait, the most "
        "that max_sequence_backlog allows"
    )
    assert not waiting.done()
    assert total(stub, step("single", 1, 1, end=True)) == 2
    assert answer(waiting.result(WAIT_S))[0, 0] == 2


def test_unknown_input_is_refused_as_ever(stub: Stub) -> None:
    """A step with a wrong input is refused before it is one, and its sequence goes on."""
    total(stub, step("total", 1, 90, start=True))
    wrong = raw_request("total", one(INT64, np.ones((1, 1), np.int64)))
    wrong.parameters["sequence_id"].int64_param = 90
    assert refusal(stub.infer, wrong)[0] is INVALID
    assert total(stub, step("total", 1, 90, end=True)) == 2


@pytest.mark.parametrize("binary", [False, True], ids=["JSON", "binary"])
def test_a_sequence_goes_over_rest_as_well(
    server: RunningServer, stub: Stub, *, binary: bool
) -> None:
    """Steps over HTTP and gRPC are of one sequence, and an END over either frees it."""
    name = 300 + binary

    def over_http(request: ModelInferRequest) -> float:
        response = response_of(infer_as(server.http_address, request, binary=binary))
        return float(answer(response)[0, 0])

    assert over_http(step("total", 1, name, start=True)) == 1
    assert total(stub, step("total", 2, name)) == 3
    assert over_http(step("total", 3, name, end=True)) == 6
    assert refusal(stub.infer, step("total", 1, name)) == (INVALID, not_started(name))
