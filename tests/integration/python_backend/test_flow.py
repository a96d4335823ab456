"""Callers who do not read, servers that stop: a model with responses for ever does no harm."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import INT32
from tests.integration.conftest import Serve
from tests.support import python_models
from tests.support.python_requests import seen
from tests.support.requests import one, raw_request
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Outgoing
from tests.support.waiting import eventually

SIZE = 16 << 10  # elements of a response, 64 KiB
BOUND_MIB = 96.0  # of growth; an unread stream that is not stopped takes that in a second
COUNTER = f"""
import numpy as np

class Model:
    def __init__(self, context): ...

    def infer(self, request):
        number = int(request.inputs["X"][0])
        while True:
            yield {{"Y": np.full({SIZE}, number, np.int32)}}
            number += 1
"""


@pytest.fixture
def counting(tmp_path: Path, serve: Serve) -> Iterator[RunningServer]:
    """Serve a model of one instance that counts for ever, 64 KiB a response."""
    python_models.publish(tmp_path, "counter", COUNTER, decoupled=True)
    with serve(tmp_path, "--allow-python-backend", "--grace", "2") as server:
        yield server


def count(start: int = 0, request_id: str = "") -> ModelInferRequest:
    """Return a request to count from a number."""
    return raw_request("counter", one(INT32, np.array([start], np.int32)), request_id=request_id)


def test_an_unread_stream_stops_its_own_request_and_no_memory_grows(
    counting: RunningServer,
) -> None:
    """A thousand responses of the same instance to another caller, and it waits all the while."""
    with counting.stub() as stub, counting.stub() as other:
        unread = stub.stream(iter([count()]), timeout=WAIT_S)
        assert seen([next(unread)], "Y")[0].value == 0
        before_mib = counting.rss_mib()
        read = other.stream(iter([count(1000)]), timeout=WAIT_S)
        values = [seen([next(read)], "Y")[0].value for _ in range(1000)]
        assert values == list(range(1000, 2000))
        assert counting.rss_mib() - before_mib < BOUND_MIB
        read.cancel()
        values = [seen([next(unread)], "Y")[0].value for _ in range(2000)]
        assert values == list(range(1, 2001))  # it goes on where it was, and nothing is lost
        unread.cancel()
        eventually(lambda: not counting.runs("counter"), "nothing goes on")


def test_every_stream_of_one_connection_gets_its_share(counting: RunningServer) -> None:
    """One instance, twenty callers, one of whom does not read: nineteen go on."""
    with counting.stub() as stub:
        streams = [stub.stream(iter([count()]), timeout=WAIT_S) for _ in range(20)]
        for number in range(50):
            for stream in streams[1:]:
                assert seen([next(stream)], "Y")[0].value == number
        for stream in streams:
            stream.cancel()
        eventually(lambda: not counting.runs("counter"), "nothing goes on")


def test_leaving_an_unread_stream_frees_the_model(counting: RunningServer) -> None:
    """A request that was put aside ends with its caller."""
    with counting.stub() as stub:
        for _ in range(5):
            unread = stub.stream(iter([count()]), timeout=WAIT_S)
            next(unread)
            unread.cancel()
        eventually(lambda: not counting.runs("counter"), "nothing goes on")


def test_a_server_stops_though_a_model_goes_on(tmp_path: Path, serve: Serve) -> None:
    """At the end of its time the request is cut off, and the exit code says so."""
    python_models.publish(tmp_path, "counter", COUNTER, decoupled=True)
    flags = ("--allow-python-backend", "--grace", "0.5")
    with serve(tmp_path, *flags, exit_code=3) as server, server.stub() as stub:
        replies = stub.stream(iter([count()]), timeout=WAIT_S)
        next(replies)
        server.terminate()
        assert server.wait() == 3
        replies.cancel()


def test_a_server_waits_for_responses_to_come(tmp_path: Path, serve: Serve) -> None:
    """What was accepted before SIGTERM is finished, and the stream ends behind it."""
    code = COUNTER.replace("while True", "while number < 5").replace(
        "            number += 1", "            number += 1\n            request.sleep(0.05)"
    )
    python_models.publish(tmp_path, "counter", code, decoupled=True)
    with serve(tmp_path, "--allow-python-backend") as server, server.stub() as stub:
        outgoing = Outgoing()
        replies = stub.stream(iter(outgoing), timeout=WAIT_S)
        outgoing.send(count())
        values = [seen([next(replies)], "Y")[0].value]
        server.terminate()
        values += [seen([next(replies)], "Y")[0].value for _ in range(4)]
        assert values == [0, 1, 2, 3, 4]
        assert server.wait() == 0
        outgoing.half_close()
