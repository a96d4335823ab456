"""The tap that the tests of clients stand on: what it holds, and from whom."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import FP32
from tests.support import models, servers
from tests.support.requests import raw_request
from tests.support.stub import SERVICE, WAIT_S, Outgoing, Stub
from tests.support.tap import Tap

STREAM = f"{SERVICE}/ModelStreamInfer"


@pytest.fixture(scope="module")
def tap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tap]:
    """Stand before a server of one model."""
    root = tmp_path_factory.mktemp("models")
    models.publish(root, "identity", models.identity(FP32))
    with servers.serve(root) as server, Tap(server.address) as between:
        yield between


@pytest.fixture
def stub(tap: Tap) -> Iterator[Stub]:
    """Connect through the tap."""
    with grpc.insecure_channel(tap.address) as channel:
        yield Stub(channel)


def request() -> ModelInferRequest:
    """Make a request."""
    return raw_request("identity", {"X": (FP32, np.zeros((1, 2), np.float32))})


def test_a_client_that_does_not_wait_is_given_answers_at_the_last_request(
    tap: Tap, stub: Stub
) -> None:
    """All requests come before the first answer, and then every answer goes."""
    with tap.holding(STREAM, 3) as hold:
        answers = stub.stream(iter([request()] * 5), timeout=WAIT_S)
        assert len(list(answers)) == 5
    assert 3 <= hold.came <= 5


def test_a_client_that_waits_is_found_out_and_let_go(tap: Tap, stub: Stub) -> None:
    """Of a client that waits for the answer to its second request, two requests are counted."""
    outgoing = Outgoing()
    with tap.holding(STREAM, 3, patience_s=0.1) as hold:
        answers = stub.stream(iter(outgoing), timeout=WAIT_S)
        outgoing.send(request(), request())
        next(answers)
        outgoing.send(request())
        outgoing.half_close()
        assert len(list(answers)) == 2
    assert hold.came == 2


def test_one_call_is_held(tap: Tap, stub: Stub) -> None:
    """The call after the one that is held, and those of other paths, are answered at once."""
    with tap.holding(STREAM, 2) as hold:
        assert stub.infer(request(), timeout=WAIT_S).raw_output_contents
        for requests in ([request()] * 2, [request()]):
            assert len(list(stub.stream(iter(requests), timeout=WAIT_S))) == len(requests)
    assert hold.came == 2
