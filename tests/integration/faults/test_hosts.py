"""Faults of connections and hosts, group E of docs/faults.md: floods, slow peers, exhaustion."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import RepositoryIndexRequest, ServerLiveRequest
from service.tensors import FP32, INT64
from tests.integration.faults.conftest import INFER, Guarded, Start, serves
from tests.support import models
from tests.support.http2 import frame, framed
from tests.support.requests import one, raw_request, simple_request
from tests.support.servers import ROOT, http_get
from tests.support.stub import SERVICE, WAIT_S, Outgoing, Stub, refusal
from tests.support.waiting import eventually

GOOD = simple_request().SerializeToString()
STREAM = f"{SERVICE}/ModelStreamInfer".encode()
REFUSED_STREAM, CALM = 7, 11
BROKEN = 4  # exit code
# A peer that is hung up on while it still sends may lose the last words that were sent to it.
CUT_OFF = (CALM, None)
DATA, HEADERS, PRIORITY, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 2, 4, 6, 8
END_STREAM, END_HEADERS = 1, 4


def test_connect_and_leave(guarded: Guarded) -> None:
    """E1: Connections that come and go, with a request or without, leave nothing behind."""
    server = guarded.server
    with guarded.unharmed():
        before = server.rss_mib()
        for index in range(300):
            if index % 3:
                guarded.dial().close()
            else:
                with guarded.connect() as client:
                    stream = client.open(INFER)
                    client.send(stream, framed(GOOD))
                    assert client.answer(stream).grpc_status == 0
        assert server.rss_mib() - before < 16


def test_too_many_idle_connections(start: Start) -> None:
    """E2: Connections over the limit are closed; idle ones are told to go after their time."""
    guarded = start("--max-connections=8", "--connection-idle=1", "--keepalive-timeout=1")
    with ExitStack() as stack:
        idle = [stack.enter_context(guarded.connect()) for _ in range(20)]
        codes = [client.read_to_end(WAIT_S) for client in idle]
    assert codes.count(0) <= 8
    assert len(codes) == 20
    eventually(lambda: is_served(guarded), "there is room again")


def test_too_many_streams_on_a_connection(start: Start) -> None:
    """E3: Streams over the limit are refused by HTTP/2, for the client to try again.

    Native: REFUSED_STREAM. Threaded: grpcio says ENHANCE_YOUR_CALM.
    """
    guarded = start("--max-connection-calls=4")
    with guarded.unharmed() as stub, guarded.connect() as client:
        held = [client.open(STREAM) for _ in range(10)]
        over = client.answers(*held[4:])
        expected = REFUSED_STREAM if guarded.transport == "native" else CALM
        assert {ended.reset for ended in over.values()} == {expected}
        calls = [stub.infer.future(simple_request(), timeout=WAIT_S) for _ in range(50)]
        assert all(call.result() for call in calls)


def test_rapid_resets(start: Start) -> None:
    """E4: Thousands of calls that are reset at once leave nothing behind.

    Native: over --max-resets-per-second the connection is closed. Threaded: grpcio has no such
    limit; the calls in progress are bounded.
    """
    guarded = start("--max-resets-per-second=100")
    with guarded.unharmed(1), guarded.connect() as client:
        client.open_many(INFER, 3000, reset=True)
        if guarded.transport == "native":
            assert client.read_to_end() in CUT_OFF
    eventually(lambda: in_progress(guarded) == 0, "no call is in progress")


@pytest.mark.parametrize("trick", ["window of nothing", "window too large", "data after the end"])
def test_streams_that_make_the_server_reset(guarded: Guarded, trick: str) -> None:
    """E5: A peer whose own errors make the server reset its streams harms nobody else."""
    provoke = {
        "window of nothing": lambda stream: frame(WINDOW_UPDATE, bytes(4), stream=stream),
        "window too large": lambda stream: frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff", stream=stream),
        "data after the end": lambda stream: frame(DATA, b"x", stream=stream),
    }[trick]
    with guarded.unharmed(1), guarded.connect() as client:
        for _ in range(500):
            stream = client.open(INFER)
            if trick == "data after the end":
                client.write(frame(DATA, framed(GOOD), flags=END_STREAM, stream=stream))
            if not client.write(provoke(stream)):
                break
    eventually(lambda: in_progress(guarded) == 0, "no call is in progress")


@pytest.mark.parametrize(
    "flood",
    [frame(PING, bytes(8)), frame(SETTINGS, b""), frame(PRIORITY, bytes(4) + b"\1", stream=1)],
    ids=["ping", "settings", "priority"],
)
def test_flood_of_control_frames(guarded: Guarded, flood: bytes) -> None:
    """E6: A flood of frames that cost nothing harms nobody else.

    Native: the connection is closed, ENHANCE_YOUR_CALM. Threaded: grpcio does so for PING, and
    bears the others.
    """
    with guarded.unharmed(1), guarded.connect() as client:
        client.write(flood * 3000)
        if guarded.transport == "native" or flood[3] == PING:
            assert client.read_to_end() in CUT_OFF


@pytest.mark.parametrize("window", [0, 1, (1 << 31) - 1, 1 << 31])
def test_strange_windows(guarded: Guarded, window: int) -> None:
    """E6: A window of nothing, of one byte, of the most and of more than that harm nobody else."""
    setting = b"\0\x04" + window.to_bytes(4, "big")
    with guarded.unharmed(), guarded.connect() as client:
        client.write(frame(SETTINGS, setting))
        stream = client.open(INFER)
        client.send(stream, framed(GOOD))
        if window == (1 << 31) - 1:
            assert client.answer(stream).grpc_status == 0


def test_answer_that_nobody_takes(start: Start) -> None:
    """E7: A peer that takes nothing of a large answer is dropped, and holds one answer until then.

    Native: by --send-timeout. Threaded: by keep-alive, as this peer reads nothing at all.
    """
    guarded = start("--send-timeout=1", "--keepalive-time=1", "--keepalive-timeout=1")
    numbers = np.zeros((1, 4 << 20), np.float32)  # 16 MiB
    request = raw_request("identity_fp32", one(FP32, numbers)).SerializeToString()
    with guarded.unharmed(16), guarded.connect() as client:
        stream = client.open(INFER)
        client.send_large(stream, framed(request))
        eventually(lambda: runs(guarded, "identity_fp32") == 1, "the model has run")
        eventually(lambda: in_progress(guarded) == 0, "the peer is dropped")


def test_no_descriptors_left(start: Start) -> None:
    """E8: Without descriptors accepting pauses; who is connected is served, and it recovers."""
    guarded = start()
    server = guarded.server
    with guarded.unharmed() as stub:
        before = server.cpu_s()
        with descriptors_left(guarded, 8), ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(guarded.dial())
            for _ in range(20):
                serves(stub)
        assert server.cpu_s() - before < 2.0


def test_no_descriptors_left_for_a_load(start: Start, tmp_path: Path) -> None:
    """E9: A version that cannot be opened for want of descriptors leaves the old one serving."""
    models.publish(tmp_path, "simple", models.simple(), config=models.SIMPLE_CONFIG)
    guarded = start("--watch=0.1", repository=tmp_path)
    with guarded.unharmed() as stub:
        with descriptors_left(guarded, 0):
            models.publish_by_rename(tmp_path, "simple", models.simple(), 2)
            eventually(
                lambda: (
                    "Too many open files" in guarded.server.log.read_text()
                    or "oo many open files" in index(stub)
                ),
                "the reason is told",
            )
            serves(stub)
        serves(stub)


def test_port_in_use(start: Start, fault_repository: Path, transport: str) -> None:
    """E10: A port that another server has ends the start with its name and exit code 2."""
    guarded = start()
    host, _, port = guarded.address.rpartition(":")
    ended = subprocess.run(
        [sys.executable, "-m", "service", "serve", str(fault_repository), f"--host={host}",
         f"--port={port}", "--http-port=0", f"--transport={transport}"],
        cwd=ROOT, capture_output=True, text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert f"cannot listen on {guarded.address}: Address already in use" in ended.stderr


def test_full_disk_for_the_log(fault_repository: Path, transport: str) -> None:
    """E11: Where nothing can be written any more, serving goes on and dropped lines are counted."""
    command = [sys.executable, "-m", "service", "serve", str(fault_repository), "--port=0"]
    command += ["--http-port=0", "--drain-delay=0", f"--transport={transport}"]
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=full, text=True
        ) as process,
    ):
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        with grpc.insecure_channel(ready[2].removeprefix("grpc=")) as channel:
            serves(Stub(channel))
        process.send_signal(signal.SIGHUP)
        page = http_get(ready[-1].removeprefix("http="), "/metrics")[1]
        assert "\npenstock_log_lines_dropped_total 0.0\n" not in page
        assert "\npenstock_log_lines_dropped_total " in page
        process.terminate()
        assert process.wait(WAIT_S) == 0


def test_full_disk_for_the_ready_line(fault_repository: Path, transport: str) -> None:
    """E11: A ready line that cannot be written does not end the server; the log says so."""
    command = [sys.executable, "-m", "service", "serve", str(fault_repository), "--port=0"]
    command += ["--http-port=0", "--drain-delay=0", f"--transport={transport}"]
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stderr is not None
        for line in process.stderr:
            if "cannot print: No space left on device" in line:
                break
        process.terminate()
        assert process.wait(WAIT_S) == 0


def test_no_memory_left(start: Start, transport: str) -> None:
    """E13: A message that the machine has no memory for never makes the server hang.

    Native: it is refused, and the next one is served. Threaded: grpcio's thread breaks off, the
    server ends with its own exit code, and whoever looks after it starts it again.
    """
    guarded = start(exit_code=0 if transport == "native" else BROKEN)
    with guarded.server.stub() as stub:
        serves(stub)
        with memory_left(guarded, 16):
            code, _ = refusal(stub.raw_infer, b"\xff" * (48 << 20))
        if transport == "native":
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            serves(stub)
        else:
            assert guarded.server.wait() == BROKEN


def test_starved_of_cpu(start: Start) -> None:
    """E14: On a CPU that somebody else burns, the server answers and deadlines hold."""
    guarded = start()
    cpu = min(os.sched_getaffinity(0))
    for thread in Path(f"/proc/{guarded.server.process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(burner.pid, {cpu})
        with guarded.unharmed() as stub:
            assert stub.live(ServerLiveRequest(), timeout=WAIT_S).live
            slow = raw_request("slow", one(INT64, np.array([[100_000]])))
            code, _ = refusal(stub.infer, slow, timeout=0.2)
            assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        burner.kill()
        burner.wait()


def test_slow_writer(guarded: Guarded) -> None:
    """E7: A peer that sends a byte now and then holds nothing but its own call."""
    with guarded.unharmed(), guarded.connect() as client:
        stream = client.open(INFER)
        for byte in framed(GOOD)[:50]:
            client.send(stream, bytes([byte]), ends=False)
        with guarded.server.stub() as other:
            serves(other)


def test_slow_reader_of_a_stream(guarded: Guarded) -> None:
    """E7: A peer that asks without end and reads no answer is stopped before memory fills."""
    with guarded.unharmed(16) as stub:
        outgoing = Outgoing()
        numbers = raw_request("identity_fp32", one(FP32, np.zeros((1, 1 << 18), np.float32)))
        replies = stub.stream(iter(outgoing), timeout=WAIT_S)
        for _ in range(200):  # 200 MiB
            outgoing.send(numbers)
        eventually(lambda: runs(guarded, "identity_fp32") > 0, "some have run")
        with guarded.server.stub() as other:
            for _ in range(50):
                serves(other)
        replies.cancel()
        outgoing.half_close()
    eventually(lambda: in_progress(guarded) == 0, "no call is in progress")


def is_served(guarded: Guarded) -> bool:
    """Tell whether a client that connects now is served."""
    with guarded.server.stub() as stub, suppress(grpc.RpcError):
        return bool(stub.live(ServerLiveRequest(), timeout=1).live)
    return False


def in_progress(guarded: Guarded) -> float:
    """Return how many calls are in progress."""
    return guarded.server.sample("penstock_transport_calls")


def runs(guarded: Guarded, model: str) -> float:
    """Return how many batches of a model have been run."""
    labels = {"model": model, "version": "1"}
    return guarded.server.sample("penstock_batch_rows_count", **labels)


def index(stub: Stub) -> str:
    """Return the state of every version, as text."""
    return str(stub.index(RepositoryIndexRequest(), timeout=WAIT_S))


@contextmanager
def descriptors_left(guarded: Guarded, count: int) -> Iterator[None]:
    """Let the server open only so many more files and sockets."""
    pid = guarded.server.process.pid
    highest = max(int(one.name) for one in Path(f"/proc/{pid}/fd").iterdir())
    with limited(pid, resource.RLIMIT_NOFILE, highest + 1 + count):
        yield


@contextmanager
def memory_left(guarded: Guarded, mib: int) -> Iterator[None]:
    """Let the address space of the server grow by only so much."""
    pid = guarded.server.process.pid
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    with limited(pid, resource.RLIMIT_AS, pages * resource.getpagesize() + (mib << 20)):
        yield


@contextmanager
def limited(pid: int, kind: int, limit: int) -> Iterator[None]:
    """Lower a limit of a process for a while."""
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (limit, before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, kind, before)
