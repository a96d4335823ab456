"""Callers who come and go while bundles wait and run: nothing is left behind, no answer is lost."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelInferResponse
from service.rpc.methods import INFER, STREAM_INFER
from service.tensors import INT64
from service.transport.native import is_installed
from tests.support import models, servers
from tests.support.requests import answer, one, raw_request
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Outgoing, stream, unary
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(not is_installed(), reason="only the native transport has a lane")

ROUNDS = 6
GATHERED = {index: [2.0 * index, 2.0 * index + 1] for index in range(8)}
OUT_OF_TIME = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
OUTSIDE = 9  # of the table: the run fails, and each request of the batch is run again by itself


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    """Serve a model that fails for some values, and one that takes its time."""
    models.publish(tmp_path, "gather", models.gather())
    models.publish(tmp_path, "slow", models.slow())
    with servers.serve(tmp_path, "--transport", "native") as running:
        yield running


def gather(index: int, request_id: object = "") -> bytes:
    """Return a request for one row of the table."""
    inputs = one(INT64, np.array([[index]]))
    return raw_request("gather", inputs, request_id=str(request_id)).SerializeToString()


def slow(steps: int) -> bytes:
    """Return a request that takes about 0.2 ms a step."""
    return raw_request("slow", one(INT64, np.array([[steps]]))).SerializeToString()


def check(future: Any, index: int, request_id: int) -> str:
    """Fail unless a call was answered with its row, or ended as it may; return its status."""
    if future.cancelled():
        return "left"
    code = future.code()  # waits for the end
    if code is grpc.StatusCode.OK:
        reply = ModelInferResponse.FromString(future.result())
        assert reply.id == str(request_id)
        assert answer(reply).reshape(-1).tolist() == GATHERED[index]
    elif code is grpc.StatusCode.INTERNAL:
        assert index == OUTSIDE, future.details()
    else:
        assert code in OUT_OF_TIME, future.details()
    return str(code.name)


def test_callers_who_come_and_go(server: RunningServer) -> None:
    """Whoever stays gets his own row; when all have gone nothing waits, runs, or is held."""
    chance = random.Random(7)
    statuses: Counter[str] = Counter()
    with grpc.insecure_channel(server.address) as channel:
        method, streams = unary(channel, INFER), stream(channel, STREAM_INFER)
        for index in (0, OUTSIDE):  # taught, before anybody leaves
            method.future(gather(index), timeout=WAIT_S).exception()
        method(slow(0), timeout=WAIT_S)
        for _ in range(ROUNDS):
            held = [method.future(slow(100), timeout=WAIT_S) for _ in range(8)]
            leaving = [_open(streams, chance) for _ in range(4)]
            calls = []
            for at in range(60):
                index = chance.choice([*range(8), *range(8), OUTSIDE])
                timeout = chance.choice([0.005, 0.02, WAIT_S, WAIT_S, WAIT_S])
                calls.append((method.future(gather(index, at), timeout=timeout), index, at))
            for future, _, _ in chance.sample(calls, 15):
                future.cancel()
            for future in [*held[::2], *leaving]:
                future.cancel()
            statuses.update(check(*call) for call in calls)
        _assert_at_rest(server)
        last = [(method.future(gather(at % 8, at), timeout=WAIT_S), at % 8, at) for at in range(40)]
        assert {check(*call) for call in last} == {"OK"}
    assert statuses["OK"] > 10 * ROUNDS
    assert statuses["left"]
    assert server.sample("penstock_overhead_seconds_count") > 10 * ROUNDS, "nothing was bundled"


def _open(streams: Any, chance: random.Random) -> Any:
    outgoing = Outgoing()
    replies = streams(iter(outgoing), timeout=WAIT_S)
    outgoing.send(*(gather(chance.choice([1, 2, 3, OUTSIDE]), at) for at in range(30)))
    outgoing.send(*[slow(100)] * 5)
    outgoing.half_close()
    return replies


def _assert_at_rest(server: RunningServer) -> None:
    """Wait until no request is anywhere in the server."""

    def left() -> Sequence[str]:
        samples = server.metrics()
        return [
            f"{name} {labels}"
            for (name, labels), value in samples.items()
            if value and name in _AT_REST
        ]

    eventually(lambda: not left(), "all requests have left the server")


_AT_REST = {
    "penstock_queue_depth",
    "penstock_batches_in_progress",
    "penstock_transport_calls",
    "penstock_transport_buffered_bytes",
    "penstock_transport_unsent_bytes",
}
