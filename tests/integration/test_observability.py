"""Metrics that agree with what was sent, and a process that does nothing behind one's back."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.tensors import FP32, INT64
from service.transport.native import is_installed
from tests.support import models, sequences
from tests.support.requests import one, raw_request, simple_request
from tests.support.servers import ROOT, RunningServer, http_get, serve
from tests.support.stub import WAIT_S, Stub, refusal
from tests.support.waiting import eventually

_CI_VARIABLES = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "GITLAB_CI", "JENKINS_URL", "BUILD_ID")
_IDLE_WINDOW_S = 1.0
_IDLE_CPU_S = 0.05  # of that second; a loop that polls every millisecond takes more


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Write a repository with three small models."""
    root = tmp_path / "models"
    models.publish(root, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    models.publish(root, "mlp", models.mlp())
    models.publish(root, "gather", models.gather())
    return root


def test_metrics_agree_with_what_was_sent(small: Path) -> None:
    """Requests by outcome, rows, and every histogram count what the client counted."""
    with serve(small) as server, server.stub() as stub:
        for rows in (1, 2, 4):
            stub.infer(simple_request(rows=rows), timeout=WAIT_S)
        list(stub.stream(iter([simple_request()] * 5), timeout=WAIT_S))
        bad = simple_request()
        bad.inputs[0].datatype = "FP32"
        for _ in range(3):
            refusal(stub.infer, bad)
        refusal(stub.infer, raw_request("gather", one(INT64, np.array([[99]]))))
        for index in range(4):
            refusal(stub.infer, simple_request(model=f"nope{index}"))
        labels = {"model": "simple", "version": "1"}
        assert server.sample("penstock_requests_total", **labels, outcome="OK") == 8
        assert server.sample("penstock_requests_total", **labels, outcome="INVALID_ARGUMENT") == 3
        assert server.sample("penstock_rows_total", **labels) == 12
        for name in ("queue", "compute", "request"):
            assert server.sample(f"penstock_{name}_seconds_count", **labels) == 8
            assert server.sample(f"penstock_{name}_seconds_bucket", **labels, le="+Inf") == 8
        executions = stub.stats_of("simple").execution_count
        assert server.sample("penstock_batch_rows_count", **labels) == executions
        assert server.sample("penstock_batch_rows_sum", **labels) == 12
        assert server.sample("penstock_queue_depth", **labels) == 0
        failed = {"model": "gather", "version": "1", "outcome": "INTERNAL"}
        assert server.sample("penstock_requests_total", **failed) == 1
        unknown = {"model": "_unknown", "version": "", "outcome": "NOT_FOUND"}
        assert server.sample("penstock_requests_total", **unknown) == 4


def test_every_metric_is_in_the_docs(small: Path) -> None:
    """Whoever sees a name on /metrics finds it in the README or in docs/."""
    models.publish(small, "gru", sequences.gru())
    docs = "".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    with serve(small) as server:
        names = {re.sub("_(bucket|count|sum)$", "", name) for name, _ in server.metrics()}
    # Those of the transport stand there without their prefix; see test_transport_metrics.
    ours = {name for name in names if re.match("penstock_(?!transport_|http_)", name)}
    assert len(ours) > 15
    assert [name for name in sorted(ours) if name not in docs] == []


@pytest.mark.parametrize("flags", [(), ("--network-threads", "1")], ids=["taker", "thread"])
def test_time_in_the_server_is_told(small: Path, flags: tuple[str, ...]) -> None:
    """Each bundled unary request is counted with the time that the server itself took for it."""
    if not is_installed():
        pytest.skip("only the native transport bundles requests")
    with serve(small, *flags) as server, server.stub() as stub:
        for index in range(20):
            stub.infer(simple_request(request_id=str(index)), timeout=WAIT_S)
        # The first one is judged. An answer is counted when it has been written.
        eventually(
            lambda: server.sample("penstock_overhead_seconds_count") == 19, "all are counted"
        )
        assert server.sample("penstock_overhead_seconds_sum") > 0


def test_strangers_make_no_new_series(small: Path) -> None:
    """Unknown models, versions and ids never become labels."""
    with serve(small) as server, server.stub() as stub:
        refusal(stub.infer, simple_request(model="first"))
        stub.infer(simple_request(request_id="first"), timeout=WAIT_S)
        series = set(server.metrics())
        for index in range(50):
            refusal(stub.infer, simple_request(model=f"m{index}", version="7"))
            stub.infer(simple_request(request_id=f"id {index}"), timeout=WAIT_S)
        assert set(server.metrics()) == series


def test_request_before_parsing_is_counted(small: Path) -> None:
    """A message that is no request is counted as one of no served model."""
    with serve(small) as server, server.stub() as stub:
        refusal(stub.raw_infer, b"\xff")
        labels = {"model": "_unknown", "version": "", "outcome": "INVALID_ARGUMENT"}
        assert server.sample("penstock_requests_total", **labels) == 1


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/v2/health/live", 200, '{"live":true}'),
        ("/v2/health/ready", 200, '{"ready":true}'),
        ("/v2/health/ready?verbose", 200, '{"ready":true}'),
        ("/v2/models/simple/infer", 405, "POST is"),
        ("/", 404, "no such path: '/'"),
    ],
)
def test_pages_of_the_http_port(server: RunningServer, path: str, status: int, body: str) -> None:
    """Probes get their answer, and a wrong page says which there are."""
    got, text = server.get(path)
    assert got == status
    assert body in text


def test_strange_visitors_of_the_http_port(server: RunningServer) -> None:
    """Noise, long lines and clients that say nothing keep nobody from the HTTP port."""
    host, _, port = server.http_address.rpartition(":")
    silent = [socket.create_connection((host, int(port)), WAIT_S) for _ in range(20)]
    with socket.create_connection((host, int(port)), WAIT_S) as noisy:
        noisy.sendall(b"\xff\x00" * 10_000 + b"\r\n\r\n")
        assert http_get(server.http_address, "/v2/health/live")[0] == 200
    for connection in silent:
        connection.close()
    assert http_get(server.http_address, "/metrics?" + "x" * 10_000)[0] == 200
    assert http_get(server.http_address, "/metrics?" + "x" * 30_000)[0] == 431
    assert http_get(server.http_address, "/v2/health/ready")[0] == 200


def test_log_lines_cannot_be_forged(small: Path) -> None:
    """Line breaks and escapes of a client do not reach the log as they are."""
    with serve(small, "--log-level", "debug") as server, server.stub() as stub:
        refusal(stub.infer, simple_request(model="x\n2026-01-01 FORGED\x1b[31m"))
        failing = raw_request("gather", one(INT64, np.array([[99]])), request_id="\nFORGED")
        refusal(stub.infer, failing)
        log = server.log.read_text()
        assert not [line for line in log.splitlines() if "FORGED" in line and "\\x0a" not in line]
        assert "\x1b" not in log


def test_idle_server_uses_no_cpu(small: Path) -> None:
    """A server that nobody asks anything rests."""
    with serve(small) as server, server.stub() as stub:
        stub.infer(simple_request(), timeout=WAIT_S)
        before = server.cpu_s()
        threading.Event().wait(_IDLE_WINDOW_S)
        assert server.cpu_s() - before <= _IDLE_CPU_S


def test_import_turns_telemetry_off() -> None:
    """Whatever of service is imported first, ONNX Runtime's telemetry is off before its import."""
    program = (
        "import os, sys; os.environ.pop('ORT_DISABLE_TELEMETRY', None); "
        "import service.errors; assert 'onnxruntime' not in sys.modules; "
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == "1\n"


def test_session_leaves_no_file(small: Path, tmp_path: Path) -> None:
    """A session writes nothing at home, in the temporary directory or into the repository."""
    places = [tmp_path / name for name in ("home", "tmp", "cache", "config", "data", "run")]
    for place in places:
        place.mkdir()
    had = sorted(small.rglob("*"))
    with (
        serve(small, environment=_bare_environment(tmp_path)) as server,
        server.stub() as stub,
    ):
        _use(stub)
    left = [path for place in places for path in place.rglob("*")]
    assert left == []
    assert sorted(small.rglob("*")) == had


def test_session_opens_no_socket_to_the_outside(small: Path, tmp_path: Path) -> None:
    """During a session every socket of the process listens, or has a loopback peer."""
    with (
        serve(small, environment=_bare_environment(tmp_path)) as server,
        server.stub() as stub,
    ):
        _use(stub)
        peers = _peers(server.process.pid)
        assert peers  # that of this very client is seen
        assert {peer for peer in peers if not _is_local(peer)} == set()


def test_session_connects_to_nobody(small: Path, tmp_path: Path) -> None:
    """From its first instruction to its last the process calls connect for local sockets alone."""
    strace = shutil.which("strace")
    if strace is None or not _may_trace(strace):
        pytest.skip("strace is not there or may not trace; /proc is looked at in any case")
    calls = tmp_path / "calls"
    traced = [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(calls)]
    flags = ["--port", "0", "--http-port", "0", "--drain-delay", "0"]
    with subprocess.Popen(
        [*traced, sys.executable, "-m", "service", "serve", str(small), *flags],
        cwd=ROOT,
        env=_bare_environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[2].removeprefix("grpc=")
        with grpc.insecure_channel(address) as channel:
            _use(Stub(channel))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGTERM)  # strace ends with it
        assert process.wait(WAIT_S) == 0
    addressed = [
        line for line in calls.read_text().splitlines() if "sin_addr" in line or "sin6_addr" in line
    ]
    outside = [line for line in addressed if "127.0.0.1" not in line and '"::1"' not in line]
    assert outside == []


def _use(stub: Stub) -> None:
    row = raw_request("mlp", one(FP32, np.ones((1, 784), np.float32)))
    for _ in range(10):
        stub.infer(row, timeout=WAIT_S)
    list(stub.stream(iter([row] * 10), timeout=WAIT_S))
    refusal(stub.infer, simple_request(model="nope"))


def _bare_environment(home: Path) -> dict[str, str]:
    """Return an environment that hides nothing: no CI variables, fresh directories."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in (*_CI_VARIABLES, "ORT_DISABLE_TELEMETRY")
    }
    return {
        **kept,
        "HOME": str(home / "home"),
        "TMPDIR": str(home / "tmp"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _peers(pid: int) -> set[str]:
    """Return the remote addresses of a process's connected sockets, in the kernel's hexadecimal."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(link)  # noqa: PTH115  a link to no file
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    peers = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                peers.add(fields[2].rpartition(":")[0])
    return {peer for peer in peers if int(peer, 16)}  # all zero: it listens


def _is_local(peer: str) -> bool:
    mapped = "0000000000000000FFFF0000"
    return (peer.removeprefix(mapped) == "0100007F") or peer == f"{1 << 24:032X}"


def _may_trace(strace: str) -> bool:
    return subprocess.run([strace, "-qq", "true"], capture_output=True, check=False).returncode == 0
