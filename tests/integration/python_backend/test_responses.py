"""Requests with any number of responses on a stream: order, ends, errors, beside plain requests."""

from collections import defaultdict

import grpc
import numpy as np

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import FP32, INT32
from tests.support.python_requests import FOR_EVER_MS, Seen, repeat, seen, square
from tests.support.requests import answer, one, raw_request, simple_request
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Outgoing, Stub, refusal
from tests.support.waiting import eventually

DECOUPLED = "ModelInfer RPC doesn't support models with decoupled transaction policy"


def test_each_element_is_a_response(python_stub: Stub) -> None:
    """The responses of a request come in order, none of them marked as the last."""
    replies = python_stub.stream(iter([repeat([4, 2, 0], request_id="a")]), timeout=WAIT_S)
    assert seen(replies) == [Seen("a", 4, False), Seen("a", 2, False), Seen("a", 0, False)]
    assert replies.code() is grpc.StatusCode.OK


def test_an_empty_final_response_is_sent_to_who_wants_it(python_stub: Stub) -> None:
    """It has the id, the model and the flag, no outputs, and comes once."""
    request = repeat([7], request_id="a", empty_final=True)
    first, last = python_stub.stream(iter([request]), timeout=WAIT_S)
    assert seen([first, last]) == [Seen("a", 7, False), Seen("a", None, True)]
    response = last.infer_response
    assert (response.model_name, response.model_version) == ("repeat_int32", "1")
    assert not response.raw_output_contents


def test_a_request_may_have_no_response(python_stub: Stub) -> None:
    """Nothing is sent then, but for the end to who wants it, and the stream ends with OK."""
    requests = [repeat([], request_id="a"), repeat([], request_id="b", empty_final=True)]
    replies = python_stub.stream(iter(requests), timeout=WAIT_S)
    assert seen(replies) == [Seen("b", None, True)]
    assert replies.code() is grpc.StatusCode.OK


def test_plain_responses_are_final_and_empty_ends_are_not_for_them(python_stub: Stub) -> None:
    """A model with one answer marks it as the last, whatever was asked for."""
    request = simple_request(3, 1, request_id="a")
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    replies = python_stub.stream(iter([request]), timeout=WAIT_S)
    assert seen(replies, "OUTPUT0") == [Seen("a", 4, True)]


def test_thousand_responses(python_stub: Stub) -> None:
    """All come, in order."""
    replies = seen(python_stub.stream(iter([repeat(range(1000))]), timeout=WAIT_S))
    assert [reply.value for reply in replies] == list(range(1000))


def test_a_slow_request_holds_back_no_decoupled_one(python_stub: Stub) -> None:
    """Responses leave when they are there: a request that gives nothing yet is overtaken."""
    outgoing = Outgoing()
    replies = python_stub.stream(iter(outgoing), timeout=WAIT_S)
    outgoing.send(repeat([1], FOR_EVER_MS, request_id="slow"), repeat([2], request_id="fast"))
    assert seen([next(replies)]) == [Seen("fast", 2, False)]
    outgoing.send(simple_request(1, 1, request_id="plain"))
    assert seen([next(replies)], "OUTPUT0") == [Seen("plain", 2, True)]
    replies.cancel()
    outgoing.half_close()


def test_plain_answers_keep_their_order_beside_decoupled_ones(python_stub: Stub) -> None:
    """Plain answers come in the order of their requests, responses in that of their request."""
    requests: list[ModelInferRequest] = []
    for index in range(40):
        requests.append(simple_request(index, 0, request_id=f"plain {index}"))
        requests.append(repeat([index, -index, index], [0, index % 3, 0], request_id=f"{index}"))
    by_id: dict[str, list[int]] = defaultdict(list)
    plain = []
    for reply in python_stub.stream(iter(requests), timeout=WAIT_S):
        assert reply.error_message == ""
        response = reply.infer_response
        if response.model_name == "simple":
            plain.append(response.id)
        else:
            by_id[response.id].append(int(answer(response, "OUT")[0]))
    assert plain == [f"plain {index}" for index in range(40)]
    assert by_id == {f"{index}": [index, -index, index] for index in range(40)}


def test_half_close_waits_for_hundred_requests(python_stub: Stub) -> None:
    """A stream that is half-closed at once still gets every response to each of a hundred."""
    requests = [repeat([index] * 3, 1, request_id=str(index)) for index in range(100)]
    replies = python_stub.stream(iter(requests), timeout=WAIT_S)
    got = seen(replies)
    assert sorted(reply.value or 0 for reply in got) == sorted(list(range(100)) * 3)
    assert replies.code() is grpc.StatusCode.OK


def test_one_answers_as_often_as_it_is_told(python_stub: Stub) -> None:
    """square_int32 gives n responses of n, and none for 0."""
    requests = [square(3, request_id="a"), square(0, request_id="b"), square(1, request_id="c")]
    got = seen(python_stub.stream(iter(requests), timeout=WAIT_S))
    assert sorted(got) == [Seen("a", 3, False)] * 3 + [Seen("c", 1, False)]


def test_unary_calls_are_refused(python_stub: Stub) -> None:
    """ModelInfer has one answer, so a decoupled model is not for it; also when streams were."""
    good, bad = repeat([1]), repeat([1])
    bad.inputs[0].datatype = "FP32"
    list(python_stub.stream(iter([good]), timeout=WAIT_S))
    for request in (good, good, bad):
        code, text = refusal(python_stub.infer, request)
        assert (code, text) == (grpc.StatusCode.UNIMPLEMENTED, DECOUPLED)


def test_the_models_own_refusal_reaches_the_caller(python_stub: Stub) -> None:
    """InvalidInput has the model's text, ends its request and leaves the stream to the others."""
    outgoing = Outgoing()
    replies = python_stub.stream(iter(outgoing), timeout=WAIT_S)
    outgoing.send(repeat([1], [1, 2], request_id="bad"))
    text = "expected IN and DELAY shape to match, got [1] and [2]"
    reply = next(replies)
    assert seen([reply]) == [Seen("bad", None, True, text)]
    assert reply.infer_response.model_name == "repeat_int32"
    outgoing.send(repeat([5], request_id="good"))
    assert seen([next(replies)]) == [Seen("good", 5, False)]
    outgoing.half_close()
    assert list(replies) == []


def test_a_malformed_request_gets_an_error_message(python_stub: Stub) -> None:
    """What is refused before the model sees it has an error with the id alone."""
    request = repeat([1], request_id="bad")
    request.inputs[0].datatype = "FP32"
    (reply,) = python_stub.stream(iter([request]), timeout=WAIT_S)
    assert reply.error_message.startswith("[request id: bad] inference input 'IN' data-type is")
    assert reply.infer_response.id == "bad"
    assert reply.infer_response.model_name == ""


def test_grpc_error_mode_ends_the_stream(python_stub: Stub) -> None:
    """With triton_grpc_error a model's failure is the status of the stream, others are stopped."""
    outgoing = Outgoing()
    metadata = (("triton_grpc_error", "true"),)
    replies = python_stub.stream(iter(outgoing), timeout=WAIT_S, metadata=metadata)
    outgoing.send(repeat([1, 2], [0, FOR_EVER_MS], request_id="a"))
    assert seen([next(replies)]) == [Seen("a", 1, False)]
    outgoing.send(repeat([1], [1, 2], request_id="bad"))
    code, text = refusal(lambda timeout: next(replies))  # noqa: ARG005  it has one
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "expected IN and DELAY shape to match, got [1] and [2]"
    outgoing.half_close()


def test_every_second_request_fails_in_grpc_error_mode(python_stub: Stub) -> None:
    """A failure of the model's code is INTERNAL with an id; the stream ends with it."""
    request = raw_request("execute_grpc_error", one(FP32, np.ones((1, 2), np.float32), "IN"))
    outgoing = Outgoing()
    metadata = (("triton_grpc_error", "true"),)
    replies = python_stub.stream(iter(outgoing), timeout=WAIT_S, metadata=metadata)
    outgoing.send(request, request)
    code, text = refusal(lambda timeout: list(replies))  # noqa: ARG005
    assert code is grpc.StatusCode.INTERNAL
    assert text.startswith("inference failed for model 'execute_grpc_error' (error id ")
    outgoing.half_close()


def test_cancel_in_the_middle_frees_the_model(
    python_server: RunningServer, python_stub: Stub
) -> None:
    """A caller who leaves while a model waits to go on is noticed at once."""
    outgoing = Outgoing()
    replies = python_stub.stream(iter(outgoing), timeout=WAIT_S)
    outgoing.send(*[repeat([1, 2], [0, FOR_EVER_MS], request_id=str(i)) for i in range(8)])
    next(replies)
    assert python_server.runs("repeat_int32")
    replies.cancel()
    outgoing.half_close()
    eventually(lambda: not python_server.runs("repeat_int32"), "no request is left")
    assert python_server.queue_depth("repeat_int32") == 0


def test_a_deadline_in_the_middle_frees_the_model(
    python_server: RunningServer, python_stub: Stub
) -> None:
    """So is one whose deadline passes."""
    replies = python_stub.stream(iter([repeat([1, 2], [0, FOR_EVER_MS])]), timeout=0.5)
    code, _ = refusal(lambda timeout: list(replies))  # noqa: ARG005
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: not python_server.runs("repeat_int32"), "no request is left")


def test_statistics_tell_responses_apart(python_stub: Stub) -> None:
    """Responses are counted by their place in the request, ends without one as empty."""
    before = python_stub.stats_of("square_int32")
    list(python_stub.stream(iter([square(2), square(2), square(1)]), timeout=WAIT_S))
    after = python_stub.stats_of("square_int32")

    def counted(place: str) -> tuple[int, int]:
        was, now = before.response_stats[place], after.response_stats[place]
        return (
            now.success.count - was.success.count,
            now.empty_response.count - was.empty_response.count,
        )

    assert [counted(place) for place in "012"] == [(3, 0), (2, 1), (0, 2)]
    assert after.inference_count - before.inference_count == 3
    assert after.inference_stats.success.count - before.inference_stats.success.count == 3


def test_metrics_count_responses(python_server: RunningServer, python_stub: Stub) -> None:
    """Of models with several; others have no such sample."""
    labels = {"model": "square_int32", "version": "1"}
    before = python_server.sample("penstock_responses_total", **labels)
    list(python_stub.stream(iter([square(2), square(0), square(5)]), timeout=WAIT_S))
    assert python_server.sample("penstock_responses_total", **labels) - before == 7
    names = {key for key in python_server.metrics() if key[0] == "penstock_responses_total"}
    assert not [key for key in names if ("model", "simple") in key[1]]


def test_plain_models_have_no_response_statistics(python_stub: Stub) -> None:
    """response_stats is for models with several responses."""
    request = raw_request(
        "custom_identity_int32", one(INT32, np.array([[1, 2]], np.int32), "INPUT0")
    )
    request.parameters["execute_delay_ms"].int64_param = 0
    assert answer(python_stub.infer(request, timeout=WAIT_S), "OUTPUT0").tolist() == [[1, 2]]
    assert not python_stub.stats_of("custom_identity_int32").response_stats
