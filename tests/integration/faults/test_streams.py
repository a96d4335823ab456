"""Group D: callers who leave at every moment, deadlines of every length, streams without end."""

import random
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelInferRequest, ModelInferResponse
from service.tensors import FP32, INT64
from tests.integration.faults.conftest import INFER, Guarded
from tests.support.http2 import framed
from tests.support.requests import answer, one, raw_request, simple_request
from tests.support.stub import SERVICE, WAIT_S, Outgoing
from tests.support.waiting import eventually

FOR_EVER = 100_000_000  # steps of the slow model: hours
_CANCELS = 600
_MESSAGES = 12_000


def slow(steps: int = FOR_EVER) -> ModelInferRequest:
    """Return a request to the slow model."""
    return raw_request("slow", one(INT64, np.array([[steps]])))


def large() -> ModelInferRequest:
    """Return a request whose answer has 1 MiB."""
    return raw_request("identity_fp32", one(FP32, np.zeros((1, 1 << 18), np.float32)))


def is_at_rest(guarded: Guarded) -> bool:
    """Tell whether nothing runs, nothing waits and no call is in progress."""
    server = guarded.server
    calls = server.sample("penstock_transport_calls")
    return not (calls or server.runs("slow") or server.queue_depth("slow"))


Sent = tuple[Any, Outgoing]


def opened(guarded: Guarded, sent: Sent) -> None:
    """Leave a call without a message."""
    del sent
    eventually(lambda: guarded.server.sample("penstock_transport_calls") == 1, "it is there")


def running(guarded: Guarded, sent: Sent) -> None:
    """Leave a request that runs."""
    sent[1].send(slow())
    eventually(lambda: guarded.server.runs("slow"), "it runs")


def queued(guarded: Guarded, sent: Sent) -> None:
    """Leave one that runs and those that wait behind it."""
    running(guarded, sent)
    sent[1].send(*[slow()] * 5)
    eventually(lambda: guarded.server.queue_depth("slow") == 5, "they wait")


def unread(_guarded: Guarded, sent: Sent) -> None:
    """Leave answers on their way."""
    sent[1].send(*[large()] * 20)
    next(sent[0])


def answered(_guarded: Guarded, sent: Sent) -> None:
    """Leave when all is answered."""
    sent[1].send(simple_request())
    next(sent[0])


def ended(_guarded: Guarded, sent: Sent) -> None:
    """Leave what is over."""
    sent[1].half_close()
    assert list(sent[0]) == []


@pytest.mark.parametrize("leave_when", [opened, running, queued, unread, answered, ended])
def test_cancel_at_every_point(
    guarded: Guarded, leave_when: Callable[[Guarded, Sent], None]
) -> None:
    """D6: Whenever a stream is cancelled, what it had in flight is freed."""
    with guarded.unharmed(32), guarded.server.stub() as stub:
        outgoing = Outgoing()
        replies = stub.stream(iter(outgoing), timeout=WAIT_S)
        leave_when(guarded, (replies, outgoing))
        replies.cancel()
        outgoing.half_close()
        eventually(lambda: is_at_rest(guarded), "nothing is left")


def test_hundreds_of_cancels(guarded: Guarded) -> None:
    """D7: Streams and calls that are cancelled at random leave nothing behind."""
    dice = random.Random(7)
    with guarded.unharmed(16), guarded.server.stub() as stub:
        for _ in range(_CANCELS // 20):
            calls = []
            for _ in range(20):
                requests = [simple_request() if dice.random() < 0.8 else slow()] * dice.randint(
                    0, 3
                )
                calls.append(stub.stream(iter(requests), timeout=WAIT_S))
            dice.shuffle(calls)
            for call in calls:
                call.cancel()
        eventually(lambda: is_at_rest(guarded), "nothing is left")


def test_cancel_races_the_answer(guarded: Guarded) -> None:
    """D8: A call that is cancelled while it is answered ends with one or the other."""
    with guarded.unharmed(), guarded.server.stub() as stub:
        codes = set()
        for index in range(300):
            future = stub.infer.future(simple_request(), timeout=WAIT_S)
            for _ in range(index % 30 * 10):
                if future.done():
                    break
            future.cancel()
            codes.add(future.code())
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.CANCELLED}
        eventually(lambda: is_at_rest(guarded), "nothing is left")


def test_a_reset_stream_leaves_its_connection(guarded: Guarded) -> None:
    """D9: After RST_STREAM the same connection carries the next call."""
    message = framed(simple_request().SerializeToString())
    with guarded.unharmed(), guarded.connect() as client:
        for _ in range(20):
            stream = client.open(f"{SERVICE}/ModelStreamInfer".encode())
            client.send(stream, message, ends=False)
            client.reset(stream)
            stream = client.open(INFER)
            client.send(stream, message)
            got = client.answer(stream)
            assert got.grpc_status == 0
            response = ModelInferResponse.FromString(got.body[5:])
            assert answer(response, "OUTPUT0").tolist() == [[3] * 16]


def test_a_client_that_is_gone(guarded: Guarded) -> None:
    """D11: A connection that ends in the middle of a request stops its run."""
    with guarded.unharmed():
        client = guarded.connect()
        stream = client.open(INFER)
        client.send(stream, framed(slow().SerializeToString()))
        eventually(lambda: guarded.server.runs("slow"), "it runs")
        client.close()
        eventually(lambda: is_at_rest(guarded), "nothing is left")


@pytest.mark.parametrize(
    ("timeout", "in_time"),
    [(b"1n", False), (b"1m", False), (b"87600H", True), (b"99999999H", True), (None, True)],
)
def test_deadlines_of_any_length(guarded: Guarded, timeout: bytes | None, *, in_time: bool) -> None:
    """D12: One that has passed stops its run, ten years and none at all are no deadline."""
    headers = [] if timeout is None else [(b"grpc-timeout", timeout)]
    with guarded.unharmed(), guarded.connect() as client:
        stream = client.open(INFER, *headers)
        request = simple_request() if in_time else slow()
        client.send(stream, framed(request.SerializeToString()))
        got = client.answer(stream)
        if in_time:
            assert got.grpc_status == 0
        else:  # grpcio's server may reset the stream instead
            assert got.grpc_status == 4 or got.reset is not None
        eventually(lambda: is_at_rest(guarded), "nothing is left")


def test_one_stream_without_end(guarded: Guarded) -> None:
    """D18: Many thousand messages of one stream take no more memory than the first ones."""
    requests = (simple_request(index % 100, 0) for index in range(_MESSAGES))
    with guarded.unharmed(1), guarded.server.stub() as stub:
        replies = stub.stream(requests, timeout=WAIT_S * 2)
        for _ in range(_MESSAGES // 4):
            next(replies)
        before = guarded.server.rss_mib()
        assert sum(1 for _ in replies) == _MESSAGES - _MESSAGES // 4
        assert guarded.server.rss_mib() - before < 8
