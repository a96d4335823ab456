"""Limits: each refuses what is over it, with the status it promises, and nobody else notices."""

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import h2.errors
import h2.events

from harness import (
    HOLD,
    HOLD_HEADERS,
    PATIENCE_S,
    UNARY,
    UNARY_HEADERS,
    RawClient,
    dialled,
    frame,
    serving,
    unary,
)


def test_concurrent_calls() -> None:
    """A call too many is RESOURCE_EXHAUSTED; when one ends, the next is served."""
    with serving(concurrent_calls=2) as app, RawClient(app.address) as raw:
        held = [raw.open(HOLD_HEADERS, frame(b"")) for _ in range(2)]
        calls = [app.expect("request").call for _ in held]
        answer = raw.call(UNARY_HEADERS, frame(b""))
        assert answer.status == 8
        assert "at most 2" in answer.text
        calls[0].finish(0, reply=b"")
        raw.answer(held[0])
        assert raw.call(UNARY_HEADERS, frame(b"")).status == 0
        assert app.server.counters()["refused_calls_total"] == 1


def test_streams_per_connection() -> None:
    """A peer that ignores the announced number of streams has the surplus refused."""
    with serving(streams_per_connection=3) as app, RawClient(app.address) as raw:
        held = [raw.open(HOLD_HEADERS, frame(b"")) for _ in range(5)]
        calls = [app.expect("request").call for _ in range(3)]
        for number in held[3:]:
            assert raw.answer(number).reset == h2.errors.ErrorCodes.REFUSED_STREAM
        for call in calls:
            call.finish(0, reply=b"")
        assert all(raw.answer(number).status == 0 for number in held[:3])


def test_connections() -> None:
    """A connection too many is closed; when one leaves, there is room again."""
    with serving(connections=1) as app:
        with RawClient(app.address) as first:
            assert first.call(UNARY_HEADERS, frame(b"")).status == 0
            with RawClient(app.address) as second:
                assert second.read_to_end() is None
            assert first.call(UNARY_HEADERS, frame(b"")).status == 0
        assert app.server.counters()["refused_connections_total"] == 1
        with dialled(app) as channel:
            echo = unary(channel, UNARY)
            assert echo(b"x", timeout=PATIENCE_S, wait_for_ready=True) == b"x"


def test_header_list() -> None:
    """Headers over the limit do not become a call; far over it, HTTP/2 refuses them itself."""
    with serving(header_list_bytes=2000) as app, RawClient(app.address) as raw:
        answer = raw.call([*UNARY_HEADERS, (b"k", b"v" * 3000)], frame(b""))
        assert (answer.status, "headers larger than max" in answer.text) == (8, True)
        assert raw.call([*UNARY_HEADERS, (b"k", b"v" * 68_000)]).headers[b":status"] == b"431"
        assert raw.call([*UNARY_HEADERS, (b"k", b"v" * 300)], frame(b"")).status == 0


def test_memory_for_requests() -> None:
    """When all requests together hold too much, the next is refused, and room comes back."""
    with serving(buffered_bytes=1_000_000, message_bytes=600_000) as app, dialled(app) as channel:
        hold = unary(channel, HOLD)
        first = hold.future(b"x" * 600_000, timeout=PATIENCE_S)
        call = app.expect("request").call
        second = hold.future(b"x" * 600_000, timeout=PATIENCE_S)
        assert second.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "memory" in second.details()
        call.finish(0, reply=b"")
        assert first.result(PATIENCE_S) == b""
        assert len(unary(channel, UNARY)(b"x" * 600_000, timeout=PATIENCE_S)) == 600_000
        assert app.server.counters()["refused_memory_total"] == 1


def test_bombs_together_stay_within_the_memory() -> None:
    """Compressed requests are counted by what they inflate to."""
    with serving(buffered_bytes=8 << 20, message_bytes=4 << 20) as app, dialled(app) as channel:
        hold = unary(channel, HOLD)
        gzip = grpc.Compression.Gzip
        fit = [hold.future(bytes(4 << 20), compression=gzip) for _ in range(2)]
        held = [app.expect("request").call for _ in fit]
        for _ in range(4):
            call = hold.future(bytes(4 << 20), compression=gzip, timeout=PATIENCE_S)
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for served in held:
            served.finish(0, reply=b"")
        assert [call.result(PATIENCE_S) for call in fit] == [b"", b""]


CLIENTS = 60
DESCRIPTORS = 30

SERVE = f"""
import os, resource, sys, threading
from penstock_transport import Server
server = Server(["127.0.0.1:0"], {{"{UNARY}": "unary"}}, resets_per_second=10**6)
[address] = server.start()
spare = int(sys.argv[1])
limit = len(os.listdir("/proc/self/fd")) + spare
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
print(address, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), server.close())).start()
while not server.closed:
    server.reply_many([(event.call, event.message) for event in server.take(64)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, flush=True)
"""


@contextmanager
def process(*, spare_descriptors: int) -> Iterator[tuple[int, str]]:
    """Serve UNARY in a process; give its number and address. It must end well, and use little."""
    command = [sys.executable, "-c", SERVE, str(spare_descriptors)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as serving_process:
        assert serving_process.stdout is not None
        yield serving_process.pid, serving_process.stdout.readline().strip()
        cpu_seconds, _ = serving_process.communicate("", timeout=PATIENCE_S)
        assert float(cpu_seconds) < 5
        assert serving_process.returncode == 0


def test_no_descriptors_left() -> None:
    """Without descriptors accepting pauses, those inside are served, and it recovers."""
    with process(spare_descriptors=DESCRIPTORS) as (_, address), RawClient(address) as inside:
        host, _, port = address.rpartition(":")
        assert inside.call(UNARY_HEADERS, frame(b"")).status == 0
        crowd = [socket.create_connection((host, int(port))) for _ in range(CLIENTS)]
        assert inside.call(UNARY_HEADERS, frame(b"")).status == 0
        for one in crowd:
            one.close()
        with RawClient(address) as newcomer:
            assert newcomer.call(UNARY_HEADERS, frame(b"")).status == 0


def test_connect_and_leave_costs_nothing() -> None:
    """Connections that come and go leave nothing behind."""
    with serving() as app:
        host, _, port = app.address.rpartition(":")
        for n in range(500):
            with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
                if n % 2:
                    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        with RawClient(app.address) as raw:
            assert raw.call(UNARY_HEADERS, frame(b"")).status == 0
        assert app.server.drain(PATIENCE_S)
        assert app.server.counters()["connections"] == 0


def test_memory_stays_while_calls_are_cancelled() -> None:
    """Ten thousand calls that are cancelled at once leave no memory behind."""
    with process(spare_descriptors=100) as (pid, address):
        with grpc.insecure_channel(address) as channel:
            echo = unary(channel, UNARY)

            def storm(count: int) -> int:
                for _ in range(count):
                    echo.future(b"x" * 1000).cancel()
                assert echo(b"after", timeout=PATIENCE_S) == b"after"
                return int(Path(f"/proc/{pid}/statm").read_text().split()[1])

            before = storm(3_000)
            after = storm(7_000)
        assert (after - before) * resource.getpagesize() < 4 << 20
