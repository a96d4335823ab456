"""Deadlines, queue policies and a full queue, on a server of their own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import INT64
from tests.integration.conftest import Serve
from tests.support import models
from tests.support.requests import answer, one, raw_request
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Stub, refusal
from tests.support.waiting import eventually

FOR_EVER = 100_000_000  # steps of the slow model: hours
POLICIES = """
version_policy { latest { num_versions: 1 } }
max_batch_size: 8
dynamic_batching {
  priority_levels: 2
  default_priority_level: 2
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 300000000
    allow_timeout_override: true
  }
  priority_queue_policy { key: 1 value { max_queue_size: 1 } }
}
"""


def slow(steps: int) -> ModelInferRequest:
    """Return a request to the slow model."""
    return raw_request("slow", one(INT64, np.array([[steps]])))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Write a repository with the slow model alone."""
    models.publish(tmp_path, "slow", models.slow())
    return tmp_path


@contextmanager
def occupied(server: RunningServer, stub: Stub) -> Iterator[None]:
    """Keep the slow model busy, so that requests wait."""
    future = stub.infer.future(slow(FOR_EVER), timeout=120)
    eventually(lambda: server.runs("slow"), "the model is busy")
    yield
    future.cancel()


def test_expired_request_is_never_run(repository: Path, serve: Serve) -> None:
    """A request whose deadline passes in the queue costs no execution."""
    with serve(repository) as server, server.stub() as stub:
        with occupied(server, stub):
            expiring = [stub.infer.future(slow(FOR_EVER), timeout=0.3) for _ in range(5)]
            patient = stub.infer.future(slow(4), timeout=WAIT_S)
            for future in expiring:
                assert future.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
            eventually(lambda: server.queue_depth("slow") == 1, "the expired ones are gone")
        assert answer(patient.result()).tolist() == [[4]]
        stats = stub.stats_of("slow")
        assert stats.execution_count == 1
        assert stats.inference_count == 1


def test_deadline_of_the_server_holds_for_all(repository: Path, serve: Serve) -> None:
    """A request without a deadline that waits longer than the server's is never run."""
    with serve(repository, "--default-deadline", "0.2") as server, server.stub() as stub:
        with occupied(server, stub):
            waiting = stub.infer.future(slow(1))
            eventually(lambda: server.queue_depth("slow") == 1, "it waits")
            given_up = time.monotonic() + 0.25
            eventually(lambda: time.monotonic() > given_up, "the deadline has passed")
        error = waiting.exception(WAIT_S)
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.details() == "Deadline Exceeded"
        assert stub.stats_of("slow").execution_count == 0


def test_full_queue_refuses(repository: Path, serve: Serve) -> None:
    """The request that finds the queue full is RESOURCE_EXHAUSTED; those in it are answered."""
    flags = ("--max-queue-requests", "4")
    with serve(repository, *flags) as server, server.stub() as stub:
        with occupied(server, stub):
            waiting = [stub.infer.future(slow(index), timeout=WAIT_S) for index in range(4)]
            eventually(lambda: server.queue_depth("slow") == 4, "the queue is full")
            code, text = refusal(stub.infer, slow(0))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "Exceeds maximum queue size: 4 requests wait for model 'slow' already" in text
            (reply,) = stub.stream(iter([slow(0)]), timeout=WAIT_S)
            assert "Exceeds maximum queue size" in reply.error_message
        assert [answer(future.result())[0, 0] for future in waiting] == [0, 1, 2, 3]
        labels = {"model": "slow", "version": "1", "outcome": "RESOURCE_EXHAUSTED"}
        assert server.sample("penstock_requests_total", **labels) == 2


def test_full_queue_of_bytes_refuses(tmp_path: Path, serve: Serve) -> None:
    """What waits is bounded in bytes too."""
    models.publish(tmp_path, "slow", models.slow())
    flags = ("--max-queue-mib", "1")
    large = raw_request("slow", one(INT64, np.zeros((100_000, 1), np.int64)))
    with serve(tmp_path, *flags) as server, server.stub() as stub, occupied(server, stub):
        waiting = stub.infer.future(large, timeout=WAIT_S)
        eventually(lambda: server.queue_depth("slow") > 0, "it waits")
        code, text = refusal(stub.infer, large)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "Exceeds maximum queue size" in text
        waiting.cancel()


def test_queue_policies_of_the_configuration(tmp_path: Path, serve: Serve) -> None:
    """Levels, their bounds and time-outs of config.pbtxt hold; a time-out is UNAVAILABLE."""
    models.publish(tmp_path, "slow", models.slow(), config=POLICIES)
    with serve(tmp_path) as server, server.stub() as stub:
        hasty, urgent = slow(1), slow(2)
        hasty.parameters["timeout"].int64_param = 1000
        urgent.parameters["priority"].uint64_param = 1
        with occupied(server, stub):
            late = stub.infer.future(hasty, timeout=WAIT_S)
            first = stub.infer.future(urgent, timeout=WAIT_S)
            eventually(lambda: server.queue_depth("slow") == 2, "both wait")
            code, text = refusal(stub.infer, urgent)
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "Exceeds maximum queue size" in text
        assert answer(first.result()).tolist() == [[2]]
        error = late.exception()
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert error.details() == "Request timeout expired"


def test_server_recovers_from_overload(repository: Path, serve: Serve) -> None:
    """After hundreds of requests that could not be served in time the next one is, at once."""
    flags = ("--max-queue-requests", "16")
    with serve(repository, *flags) as server, server.stub() as stub:
        with occupied(server, stub):
            futures = [stub.infer.future(slow(FOR_EVER), timeout=0.5) for _ in range(300)]
            codes = {future.exception().code() for future in futures}
        assert codes <= {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED}
        assert answer(stub.infer(slow(5), timeout=WAIT_S)).tolist() == [[5]]
        eventually(lambda: server.queue_depth("slow") == 0, "nothing waits")


def test_cancelled_requests_are_counted_as_such(repository: Path, serve: Serve) -> None:
    """The metrics tell answered, expired and cancelled requests apart."""
    with serve(repository) as server, server.stub() as stub:
        stub.infer(slow(1), timeout=WAIT_S)
        with occupied(server, stub):
            future = stub.infer.future(slow(1), timeout=WAIT_S)
            eventually(lambda: server.queue_depth("slow") == 1, "it waits")
            future.cancel()
            eventually(lambda: server.queue_depth("slow") == 0, "it has left")

        def outcome(name: str) -> float:
            return server.sample("penstock_requests_total", model="slow", version="1", outcome=name)

        eventually(lambda: outcome("CANCELLED") == 2, "both cancelled ones are counted")
        assert outcome("OK") == 1
