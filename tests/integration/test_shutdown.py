"""SIGTERM: health turns, accepted requests are answered, new ones refused, the exit code is 0."""

import os
import signal
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import FP32, INT64, Array
from tests.integration.conftest import Serve
from tests.support import models
from tests.support.requests import answer, one, raw_request
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Outgoing, Stub, refusal
from tests.support.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
CLIENTS = 16
_LOST = ("Socket closed", "reset", "Cancelled", "internal")  # how a lost call looks
_UNMADE = "failed to connect"  # how one looks that no connection was made for, so that none had it


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Write a repository with a fast and a slow model."""
    models.publish(tmp_path, "mlp", models.mlp())
    models.publish(tmp_path, "slow", models.slow())
    return tmp_path


class Client:
    """Asks without a pause until it is refused. answered: right answers, refusal: its end."""

    def __init__(self, server: RunningServer, index: int) -> None:
        self.answered = 0
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self._server = server
        self._streams = index % 4 == 0
        self._row = np.random.default_rng(index).standard_normal((1, 784)).astype(np.float32)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        request = raw_request("mlp", one(FP32, self._row))
        with self._server.stub() as stub:
            try:
                expected = answer(stub.infer(request, timeout=WAIT_S))
                while True:
                    self._ask(stub, request, expected)
            except grpc.RpcError as error:
                self.refusal = error.code(), error.details() or ""

    def _ask(self, stub: Stub, request: ModelInferRequest, expected: Array) -> None:
        if self._streams:
            replies = list(stub.stream(iter([request] * 5), timeout=WAIT_S))
            assert all("shutting down" in r.error_message for r in replies if r.error_message)
            answers = [answer(r.infer_response) for r in replies if not r.error_message]
        else:
            answers = [answer(stub.infer(request, timeout=WAIT_S))]
        for got in answers:
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
            self.answered += 1


def test_drain_under_load_loses_nothing(repository: Path, serve: Serve) -> None:
    """With 16 clients at work every request is answered or refused; none is lost, exit code 0."""
    with serve(repository, "--drain-delay", "0.3") as server:
        clients = [Client(server, index) for index in range(CLIENTS)]
        eventually(lambda: all(client.answered > 20 for client in clients), "all are served")
        server.terminate()
        for client in clients:
            client.thread.join(WAIT_S)
        assert server.wait() == 0
    for client in clients:
        assert client.refusal is not None
        code, text = client.refusal
        assert code is grpc.StatusCode.UNAVAILABLE, text
        assert text.startswith(_UNMADE) or not [lost for lost in _LOST if lost in text], text


def test_request_in_progress_is_answered(repository: Path, serve: Serve) -> None:
    """A request that runs, and one that waits behind it, are answered after SIGTERM."""
    with serve(repository) as server, server.stub() as stub:
        running = stub.infer.future(_slow(3000), timeout=WAIT_S)
        eventually(lambda: server.runs("slow"), "the first runs")
        waiting = stub.infer.future(_slow(7), timeout=WAIT_S)
        eventually(lambda: server.queue_depth("slow") == 1, "the second waits")
        server.terminate()
        assert answer(running.result()).tolist() == [[3000]]
        assert answer(waiting.result()).tolist() == [[7]]
        assert server.wait() == 0


def test_watch_sees_the_server_leave(repository: Path, serve: Serve) -> None:
    """Watch says SERVING, then NOT_SERVING at SIGTERM, while requests are still served a while."""
    with serve(repository, "--drain-delay", "20") as server, server.stub() as stub:
        watch = health_pb2_grpc.HealthStub(stub.channel).Watch(
            health_pb2.HealthCheckRequest(service="mlp"), timeout=WAIT_S
        )
        assert next(watch).status == SERVING
        server.terminate()
        assert next(watch).status == NOT_SERVING
        assert server.get("/v2/health/ready")[0] == 503
        assert server.get("/v2/health/live")[0] == 200
        assert answer(stub.infer(_slow(3), timeout=WAIT_S)).tolist() == [[3]]
        server.terminate()  # a second one cuts the delay short
        with pytest.raises(grpc.RpcError) as caught:
            next(watch)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.wait() == 0


def test_idle_streams_are_ended(repository: Path, serve: Serve) -> None:
    """Streams that nobody uses do not hold up the end: they end as UNAVAILABLE."""
    with serve(repository) as server, server.stub() as stub:
        open_streams = []
        for _ in range(10):
            outgoing = Outgoing()
            outgoing.send(_slow(1))
            replies = stub.stream(iter(outgoing), timeout=WAIT_S)
            assert answer(next(replies).infer_response).tolist() == [[1]]
            open_streams.append((outgoing, replies))
        server.terminate()
        for outgoing, replies in open_streams:
            code, text = refusal(lambda r=replies, **_: next(r))
            assert code is grpc.StatusCode.UNAVAILABLE
            assert "shutting down" in text
            outgoing.half_close()
        assert server.wait() == 0


def test_stream_with_requests_in_flight_is_answered_first(repository: Path, serve: Serve) -> None:
    """What a stream had asked before SIGTERM is answered before the stream ends."""
    with serve(repository) as server, server.stub() as stub:
        outgoing = Outgoing()
        replies = stub.stream(iter(outgoing), timeout=WAIT_S)
        outgoing.send(_slow(3000))
        eventually(lambda: server.runs("slow"), "the first runs")
        outgoing.send(_slow(2), _slow(3))
        eventually(lambda: server.queue_depth("slow") == 2, "two wait behind the first")
        server.terminate()
        assert [answer(next(replies).infer_response)[0, 0] for _ in range(3)] == [3000, 2, 3]
        code, _ = refusal(lambda **_: next(replies))
        assert code is grpc.StatusCode.UNAVAILABLE
        outgoing.half_close()
        assert server.wait() == 0


def test_grace_bounds_the_end(repository: Path, serve: Serve) -> None:
    """A request that outlives the grace period is lost, and the exit code says so."""
    with (
        serve(repository, "--grace", "0.5", exit_code=3) as server,
        server.stub() as stub,
    ):
        endless = stub.infer.future(_slow(100_000_000), timeout=120)
        eventually(lambda: server.runs("slow"), "it runs")
        server.terminate()
        assert endless.exception(WAIT_S) is not None
        assert server.wait() == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_ends_at_once(repository: Path, number: int, serve: Serve) -> None:
    """SIGTERM and SIGINT end a server without work with exit code 0, and free its ports."""
    with serve(repository) as server:
        os.kill(server.process.pid, number)
        assert server.wait() == 0
        with server.stub() as stub:
            assert refusal(stub.infer, _slow(1))[0] is grpc.StatusCode.UNAVAILABLE


def _slow(steps: int) -> ModelInferRequest:
    return raw_request("slow", one(INT64, np.array([[steps]])))
