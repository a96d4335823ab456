"""The HTTP port among people: slow, silent, many, and too large; and how it is shut."""

import gc
import http.client
import json
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.config import Settings
from service.rest.guard import GuardedProtocol
from service.tensors import FP32
from tests.support import models
from tests.support.requests import one, raw_request
from tests.support.rest import ask, binary_body, exchange, infer
from tests.support.servers import RunningServer, serve, serve_inside
from tests.support.stub import WAIT_S
from tests.support.waiting import eventually

_LATE_S = 0.3  # long enough for a server that does not wait to be gone
SLOW: dict[str, Any] = {
    "inputs": [{"name": "X", "datatype": "INT64", "shape": [1, 1], "data": [100_000]}]
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository with an identity and a slow model."""
    root = tmp_path_factory.mktemp("models")
    models.publish(root, "identity", models.identity(FP32))
    models.publish(root, "slow", models.slow())
    return root


def connect(server: RunningServer) -> socket.socket:
    """Open a connection."""
    host, _, port = server.http_address.rpartition(":")
    return socket.create_connection((host, int(port)), WAIT_S)


def kept(server: RunningServer) -> http.client.HTTPConnection:
    """Open a connection that has been used and is kept."""
    connection = http.client.HTTPConnection(server.http_address, timeout=WAIT_S)
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().read()
    return connection


def running(server: RunningServer, steps: int = 100_000) -> http.client.HTTPConnection:
    """Send a request that takes long, and return its connection when it runs."""
    SLOW["inputs"][0]["data"] = [steps]
    connection = http.client.HTTPConnection(server.http_address, timeout=WAIT_S)
    connection.request("POST", "/v2/models/slow/infer", json.dumps(SLOW))
    eventually(lambda: server.runs("slow"), "it runs")
    return connection


def test_slow_and_silent_callers(repository: Path) -> None:
    """Headers that do not come are 408; a connection that says nothing, or no more, is closed."""
    flags = ("--handshake-timeout", "0.2", "--connection-idle", "0.2")
    with serve(repository, *flags) as server:
        assert exchange(server.http_address, b"GET /v2 HTT").startswith(b"HTTP/1.1 408 ")
        assert exchange(server.http_address, b"") == b""
        with connect(server) as connection:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            received = b""
            while part := connection.recv(1 << 16):
                received += part
            assert received.endswith(b'{"live":true}')


def test_idle_connections_make_room(repository: Path) -> None:
    """Above the limit an idle connection is closed for a new one; busy ones are not."""
    with serve(repository, "--max-connections", "4") as server:
        idle = [kept(server) for _ in range(6)]
        assert server.get("/v2/health/ready")[0] == 200
        busy = [running(server) for _ in range(3)]
        half = connect(server)
        half.sendall(b"GET /v2")
        answer = exchange(server.http_address, b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"too many connections, at most 4" in answer
        half.close()
        for connection in (*idle, *busy):
            connection.close()
        eventually(lambda: server.get("/v2/health/ready")[0] == 200, "there is room again")


def test_calls_in_progress_are_bounded(repository: Path) -> None:
    """One too many is 429; probes are answered all the same."""
    with serve(repository, "--max-concurrent-calls", "1") as server:
        connection = running(server)
        assert infer(server.http_address, "slow", SLOW).error() == (
            429,
            "Too many calls in progress, at most 1",
        )
        assert server.get("/v2/health/ready")[0] == 200
        connection.close()
        eventually(lambda: not server.runs("slow"), "it is stopped")


@pytest.mark.parametrize("chunked", ["declared", "chunked"])
def test_body_that_is_too_large(repository: Path, chunked: str) -> None:
    """It is 413, which its sender gets to read although he sends everything first."""
    content = bytes(3 << 20)
    body: Any = iter([content]) if chunked == "chunked" else content
    with serve(repository, "--max-message-mib", "1") as server:
        answer = ask(server.http_address, "POST", "/v2/models/identity/infer", body)
        assert answer.error() == (413, "the body is larger than 1048576 bytes (--max-message-mib)")
        assert answer.headers["connection"] == "close"


def test_expectation_is_met(repository: Path) -> None:
    """A caller that asks first is told to go on, or why not, before it sends its body."""
    with serve(repository, "--max-message-mib", "1") as server, connect(server) as connection:
        head = "POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        connection.sendall(f"{head}Content-Length: 2\r\n\r\n".encode())
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        received = b""
        while not received.endswith(b"}]"):
            received += connection.recv(1 << 16)
        assert received.startswith(b"HTTP/1.1 200 ")
        connection.sendall(f"{head}Content-Length: 9999999\r\n\r\n".encode())
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_answer_that_nobody_reads(repository: Path) -> None:
    """A caller who takes nothing of a large answer is dropped."""
    request = raw_request("identity", one(FP32, np.zeros((16, 1 << 18), np.float32)))
    body, headers = binary_body(request)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\n{lines}"
    with serve(repository, "--send-timeout", "0.5") as server:
        before = server.descriptors()
        with connect(server) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            eventually(lambda: server.descriptors() > before, "it is connected")
            eventually(lambda: server.descriptors() == before, "it is dropped")
        assert server.get("/v2/health/ready")[0] == 200


def test_offer_of_another_protocol_is_passed_over(repository: Path) -> None:
    """Who offers HTTP/2 with a first request, as Java's client does, is served all the same."""
    row = {"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [1.5]}
    offer = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    }
    with serve(repository) as server:
        connection = http.client.HTTPConnection(server.http_address, timeout=WAIT_S)
        content = json.dumps({"inputs": [row]}).encode()
        for body in (content, iter([content[:9], content[9:]])):
            connection.request("POST", "/v2/models/identity/infer", body, offer)
            answer = connection.getresponse()
            assert json.loads(answer.read())["outputs"][0]["data"] == [1.5]
            assert "upgrade" not in answer.headers
        connection.close()
        refused = exchange(server.http_address, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert refused.startswith(b"HTTP/1.1 400 ")
        live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
        many = (live + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n") * 1500
        answers = exchange(server.http_address, many + live + b"Connection: close\r\n\r\n")
        assert answers.count(b"HTTP/1.1 200 OK") == 1501


def test_drain(repository: Path) -> None:
    """On SIGTERM what runs is answered, what comes is refused, probes say not ready, exit 0."""
    with serve(repository, "--drain-delay", "0") as server:
        rest, probe = kept(server), kept(server)
        last = running(server, steps=10_000)
        server.terminate()

        def status_of_ready() -> int:
            probe.request("GET", "/v2/health/ready")
            response = probe.getresponse()
            assert response.read()
            return response.status

        eventually(lambda: status_of_ready() == 503, "it is not ready")
        rest.request("POST", "/v2/models/identity/infer", "{}")
        refused = rest.getresponse()
        assert json.loads(refused.read())["error"]
        assert refused.headers["connection"] == "close"
        answered = last.getresponse()
        assert answered.status == 200
        assert json.loads(answered.read())["outputs"][0]["name"] == "Y"
        assert server.wait() == 0


def test_answers_are_not_held_back(repository: Path) -> None:
    """Small packets leave at once: the end of an answer does not wait 40 ms for an ACK."""
    with serve_inside(Settings(str(repository), port=0, http_port=0, drain_delay=0)) as server:
        connection = http.client.HTTPConnection(server.http_address, timeout=WAIT_S)
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read()
        (protocol,) = (one for one in gc.get_objects() if type(one) is GuardedProtocol)
        accepted = protocol.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.close()


def test_drain_waits_for_answers_and_not_for_bodies(repository: Path) -> None:
    """A large answer reaches who reads it late; a body that does not come is not waited for."""
    rows = np.arange(16 << 18, dtype=np.float32).reshape(16, -1)
    request = raw_request("identity", one(FP32, rows))
    body, headers = binary_body(request)
    with serve(repository, "--drain-delay", "0") as server, connect(server) as half:
        half.sendall(b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: x\r\n")
        half.sendall(b"Content-Length: 100\r\n\r\n{")
        reader = http.client.HTTPConnection(server.http_address, timeout=WAIT_S)
        reader.request("POST", "/v2/models/identity/infer", body, headers)
        answer = reader.getresponse()  # its first bytes: the rest is on its way
        server.terminate()
        eventually(lambda: _is_draining(server), "it drains")
        threading.Event().wait(_LATE_S)
        assert answer.read().endswith(rows.tobytes())
        assert server.wait() == 0
        reader.close()


def _is_draining(server: RunningServer) -> bool:
    """Tell whether probes are told that it is not ready, or it has just been closed."""
    try:
        return server.get("/v2/health/ready")[0] != http.client.OK
    except (OSError, http.client.HTTPException):
        return True


def test_small_answer_is_one_packet(repository: Path) -> None:
    """Status, headers and body of a small answer arrive together, and HEAD has no body."""
    with serve(repository) as server, connect(server) as connection:
        for method, end in ((b"GET", b'{"live":true}'), (b"HEAD", b"\r\n\r\n"), (b"GET", b"true}")):
            connection.sendall(method + b" /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            received = connection.recv(1 << 16)
            assert received.startswith(b"HTTP/1.1 200 OK\r\n")
            assert received.endswith(end)
