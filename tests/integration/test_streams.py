"""ModelStreamInfer: order, ids, windows, cancellation and errors that end the stream."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import FP32, INT64
from tests.support.requests import answer, one, raw_request, simple_request
from tests.support.servers import RunningServer, serve
from tests.support.stub import WAIT_S, Outgoing, Stub
from tests.support.waiting import eventually

FOR_EVER = 100_000_000  # steps of the slow model: hours


def slow(steps: int, request_id: str = "") -> ModelInferRequest:
    """Return a request to the slow model."""
    return raw_request("slow", one(INT64, np.array([[steps]])), request_id=request_id)


def test_thousand_requests_are_answered_in_order(stub: Stub) -> None:
    """Every request of a stream gets its own answer, in the order of the requests."""
    requests = (simple_request(index, 1, request_id=f"id {index}") for index in range(1000))
    replies = stub.stream(requests, timeout=WAIT_S)
    for index, reply in enumerate(replies):
        assert reply.error_message == ""
        assert reply.infer_response.id == f"id {index}"
        assert answer(reply.infer_response, "OUTPUT0")[0, 0] == index + 1
    assert index == 999
    assert replies.code() is grpc.StatusCode.OK


def test_bad_request_among_a_thousand(stub: Stub) -> None:
    """One bad request in the middle costs its own answer and no other."""
    requests = [simple_request(index, 1, request_id=str(index)) for index in range(1000)]
    requests[500].inputs[0].datatype = "FP32"
    replies = list(stub.stream(iter(requests), timeout=WAIT_S))
    assert [reply.infer_response.id for reply in replies] == [str(i) for i in range(1000)]
    assert [i for i, reply in enumerate(replies) if reply.error_message] == [500]
    assert replies[500].error_message.startswith("[request id: 500] inference input 'INPUT0'")


def test_order_holds_across_models_and_speeds(stub: Stub) -> None:
    """A fast answer behind a slow one waits for it, also when the models differ."""
    requests = [
        slow(2000, "slow"),
        simple_request(1, 1, request_id="fast"),
        slow(0, "at once"),
        simple_request(model="nope", request_id="bad"),
        simple_request(2, 2, request_id="last"),
    ]
    replies = list(stub.stream(iter(requests), timeout=WAIT_S))
    assert [reply.infer_response.id for reply in replies] == [r.id for r in requests]
    assert [bool(reply.error_message) for reply in replies] == [False] * 3 + [True, False]


def test_half_close_is_answered_after_the_last_answer(stub: Stub) -> None:
    """A stream that the client has closed early still gets all of a hundred queued answers."""
    replies = list(stub.stream(iter([slow(20, str(i)) for i in range(100)]), timeout=WAIT_S))
    assert [reply.infer_response.id for reply in replies] == [str(i) for i in range(100)]
    assert not any(reply.error_message for reply in replies)


def test_empty_stream_ends_with_ok(stub: Stub) -> None:
    """A stream without requests has no answers and ends with OK."""
    replies = stub.stream(iter(()), timeout=WAIT_S)
    assert list(replies) == []
    assert replies.code() is grpc.StatusCode.OK


def test_ids_may_repeat(stub: Stub) -> None:
    """Requests with the same id, or none, are told apart by their order."""
    requests = [simple_request(i, 0, request_id=i % 2 * "x") for i in range(10)]
    replies = list(stub.stream(iter(requests), timeout=WAIT_S))
    assert [answer(r.infer_response, "OUTPUT0")[0, 0] for r in replies] == list(range(10))


def test_requests_of_one_stream_are_batched(stub: Stub) -> None:
    """Requests in flight on one stream share runs."""
    before = stub.stats_of("identity_fp32")
    array = np.ones((1, 1000), np.float32)
    requests = (raw_request("identity_fp32", one(FP32, array)) for _ in range(500))
    assert len(list(stub.stream(requests, timeout=WAIT_S))) == 500
    after = stub.stats_of("identity_fp32")
    assert after.inference_count - before.inference_count == 500
    assert after.execution_count - before.execution_count < 500


def test_cancelled_stream_frees_what_is_queued(server: RunningServer, stub: Stub) -> None:
    """Cancelling a stream stops its run and empties its place in the queue."""
    outgoing = Outgoing()
    replies = stub.stream(iter(outgoing), timeout=WAIT_S)
    outgoing.send(slow(FOR_EVER))
    eventually(lambda: server.runs("slow"), "the first runs")
    outgoing.send(*(slow(FOR_EVER) for _ in range(10)))
    eventually(lambda: server.queue_depth("slow") == 10, "requests wait")
    replies.cancel()
    outgoing.half_close()
    eventually(lambda: server.queue_depth("slow") == 0, "the queue is empty")
    assert answer(stub.infer(slow(3), timeout=WAIT_S)).tolist() == [[3]]


def test_cancelled_unary_call_stops_its_run(stub: Stub) -> None:
    """A run that nobody waits for is interrupted: the next request is served at once."""
    for _ in range(3):
        future = stub.infer.future(slow(FOR_EVER), timeout=0.3)
        assert future.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert answer(stub.infer(slow(1), timeout=WAIT_S)).tolist() == [[1]]


def test_error_ends_the_stream_where_the_client_wants_it(stub: Stub) -> None:
    """With triton_grpc_error a failure in execution ends the stream with its status."""
    requests = [
        simple_request(1, 1, request_id="0"),
        simple_request(model="nope", request_id="1"),  # refused before: the stream goes on
        raw_request("gather", one(INT64, np.array([[99]])), request_id="2"),
        slow(FOR_EVER, "3"),
    ]
    outgoing = Outgoing()
    metadata = (("triton_grpc_error", "true"),)
    replies = stub.stream(iter(outgoing), timeout=WAIT_S, metadata=metadata)
    outgoing.send(*requests[:2])
    assert next(replies).infer_response.id == "0"
    assert "unknown model" in next(replies).error_message
    outgoing.send(*requests[2:])
    with pytest.raises(grpc.RpcError) as caught:
        next(replies)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "inference failed for model 'gather'" in (caught.value.details() or "")
    outgoing.half_close()
    assert answer(stub.infer(slow(1), timeout=WAIT_S)).tolist() == [[1]]  # 3 was cancelled


def test_deadline_of_a_stream_cancels_its_requests(server: RunningServer, stub: Stub) -> None:
    """When the deadline of a stream passes, what it had in flight is freed."""
    replies = stub.stream(iter([slow(FOR_EVER)] * 5), timeout=0.5)
    with pytest.raises(grpc.RpcError) as caught:
        next(replies)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    eventually(lambda: server.queue_depth("slow") == 0, "the queue is empty")
    assert answer(stub.infer(slow(2), timeout=WAIT_S)).tolist() == [[2]]


def test_reader_that_does_not_read_cannot_grow_memory(repository: object) -> None:
    """A client that sends 1.5 GB and reads nothing is stopped; others are served meanwhile."""
    array = np.ones((1, 65_536), np.float32)  # 256 KiB
    request = raw_request("identity_fp32", one(FP32, array))
    sent = 0

    def endless() -> Iterator[ModelInferRequest]:
        nonlocal sent
        while sent < 6000:
            sent += 1
            yield request

    with serve(repository) as server, server.stub() as stub, server.stub() as other:  # type: ignore[arg-type]
        other.infer(simple_request(), timeout=WAIT_S)
        before = server.rss_mib()
        replies = stub.stream(endless(), timeout=120)

        def has_stopped() -> bool:
            had = sent
            for _ in range(50):
                other.infer(simple_request(), timeout=WAIT_S)
            return sent == had > 0

        eventually(has_stopped, "the client is not read any more")
        assert sent < 1000
        assert server.rss_mib() - before < 200
        received = [next(replies) for _ in range(200)]  # reading sets it going again
        assert not any(reply.error_message for reply in received)
        replies.cancel()


def test_many_streams_at_once(server: RunningServer) -> None:
    """Sixty streams with requests in flight at once are all answered, each in its order."""
    with server.stub() as stub:
        streams = [
            stub.stream(
                iter([simple_request(s, i, request_id=f"{s}/{i}") for i in range(20)]),
                timeout=WAIT_S,
            )
            for s in range(60)
        ]
        for s, replies in enumerate(streams):
            assert [r.infer_response.id for r in replies] == [f"{s}/{i}" for i in range(20)]
