"""Draining, closing, and what `take` promises in each state."""

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
from penstock_transport import Event, Server

from harness import (
    HOLD,
    HOLD_STREAM,
    METHODS,
    PATIENCE_S,
    UNARY,
    App,
    RawClient,
    dialled,
    frame,
    request_headers,
    serving,
    stream,
    unary,
)


def test_take_waits_for_its_time() -> None:
    """Without events, `take` returns nothing: at once for zero, else after the time."""
    server = Server(["127.0.0.1:0"], METHODS)
    server.start()
    assert server.take(10, 0) == []
    before = time.monotonic()
    assert server.take(10, 0.05) == []
    assert time.monotonic() - before >= 0.05
    assert server.take(0, None) == []
    server.close()
    assert server.take(10) == []
    assert server.closed


def test_close_wakes_take() -> None:
    """A thread that waits in `take` comes back when the server is closed."""
    server = Server(["127.0.0.1:0"], METHODS)
    server.start()
    taken: list[object] = []
    threads = [threading.Thread(target=lambda: taken.append(server.take(1))) for _ in range(3)]
    for thread in threads:
        thread.start()
    server.close()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert taken == [[], [], []]


def test_take_gives_no_more_than_asked() -> None:
    """A burst is cut to the size asked for; the rest comes next, in order."""
    server = Server(["127.0.0.1:0"], METHODS, stream_window=100)
    [address] = server.start()
    headers = request_headers(HOLD_STREAM.encode())
    with RawClient(address) as raw:
        raw.open(headers, b"".join(frame(b"%d" % n) for n in range(20)))
        events: list[Event] = []
        while len(events) < 22:
            burst = server.take(7, PATIENCE_S)
            assert 0 < len(burst) <= 7
            events.extend(burst)
    assert [event.kind for event in events] == ["opened", *["message"] * 20, "half-closed"]
    assert [event.message for event in events[1:21]] == [b"%d" % n for n in range(20)]
    assert len({id(event.call) for event in events}) == 1
    server.close()


def test_context_stays_with_the_call(app: App, channel: grpc.Channel) -> None:
    """What an application keeps with a call is there with each of its events."""
    call = stream(channel, HOLD_STREAM)(iter([b"a"]))
    served = app.expect("opened").call
    assert served.context is None
    served.context = mine = object()
    assert app.expect("message").call.context is mine
    served.finish(0)
    assert list(call) == []


def test_kinds_may_be_any_objects() -> None:
    """The kinds of events are the very objects that were given for them."""
    kinds = [object() for _ in range(8)]
    server = Server(["127.0.0.1:0"], METHODS, kinds=kinds)
    [address] = server.start()
    with grpc.insecure_channel(address) as channel:
        call = unary(channel, HOLD).future(b"x")
        [event] = server.take(10, PATIENCE_S)
        assert event.kind is kinds[0]
        event.call.finish(0, reply=b"y")
        assert server.take(10, 0.1) == []  # which serves the network
        assert call.result(PATIENCE_S) == b"y"
    server.close()


def test_drain_lets_calls_end() -> None:
    """Draining refuses new calls and connections and waits for those in progress."""
    with serving() as app, dialled(app) as channel, RawClient(app.address) as raw:
        call = unary(channel, HOLD).future(b"", timeout=PATIENCE_S)
        served = app.expect("request").call
        assert raw.call(request_headers(UNARY.encode()), frame(b"")).status == 0
        assert not app.server.drain(0)
        refused = raw.open(request_headers(UNARY.encode()), frame(b""))
        answer = raw.answer(refused)
        assert (answer.status, answer.text) == (14, "The server is shutting down")
        assert raw.read_to_end() == 0
        host, _, port = app.address.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        served.finish(0, reply=b"at last")
        assert app.server.drain(PATIENCE_S)
        assert call.result(PATIENCE_S) == b"at last"


def test_drain_does_not_wait_for_ever() -> None:
    """A call that does not end makes `drain` return False after its time."""
    with serving() as app, dialled(app) as channel:
        call = unary(channel, HOLD).future(b"")
        app.expect("request")
        assert not app.server.drain(0.1)
        app.server.close()
        assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_drain_loses_nothing_under_load() -> None:
    """Every call that was accepted is answered; the others are told to go elsewhere."""
    with serving() as app, dialled(app) as channel:
        echo = unary(channel, UNARY)
        started = threading.Event()
        outcomes: list[grpc.StatusCode] = []

        def work() -> None:
            for _ in range(2000):
                call = echo.future(b"x", timeout=PATIENCE_S)
                outcomes.append(call.code())
                started.set()
                if outcomes[-1] is not grpc.StatusCode.OK:
                    return

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert started.wait(PATIENCE_S)
        assert app.server.drain(PATIENCE_S)
        for thread in threads:
            thread.join()
        assert set(outcomes) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


def test_close_ends_what_is_left(app: App, channel: grpc.Channel) -> None:
    """Closing aborts calls in progress; answering them afterwards does nothing."""
    call = unary(channel, HOLD).future(b"")
    served = app.expect("request").call
    app.server.close()
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    served.finish(0, reply=b"too late")
    served.send(b"too late")
    served.settle(1)
    app.server.reply_many([(served, b"too late")])


def test_server_that_is_forgotten() -> None:
    """A server that nobody closed does not keep its process."""
    code = """
from penstock_transport import Event, Server
server = Server(["127.0.0.1:0"], {"/a/b": "unary"})
print(server.start())
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=PATIENCE_S)
    assert done.returncode == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_idle_server_uses_no_time(workers: int) -> None:
    """A server that waits, with a connection open, does nothing at all."""
    with serving(workers=workers) as app, RawClient(app.address) as raw:
        assert raw.call(request_headers(UNARY.encode()), frame(b"")).status == 0
        tasks = Path("/proc/self/task")
        names = {one: (one / "comm").read_text() for one in tasks.iterdir()}
        ours = [one for one, name in names.items() if name.startswith("penstock-transp")]
        assert len(ours) == workers
        ours.append(tasks / str(app.thread_id))

        def switches() -> int:
            status = "".join((one / "status").read_text() for one in ours)
            lines = [line for line in status.splitlines() if "ctxt_switches" in line]
            return sum(int(line.split()[-1]) for line in lines)

        raw.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            raw.socket.recv(1)
        before = switches()
        with pytest.raises(TimeoutError):
            raw.socket.recv(1)
        assert switches() - before <= 2


COUNT_DESCRIPTORS = f"""
import os, socket, threading
from penstock_transport import Server

def cycle():
    server = Server(["127.0.0.1:0"], {{"{UNARY}": "unary"}}, workers=WORKERS)
    [address] = server.start()
    taking = threading.Thread(target=server.take, args=(1,))
    taking.start()
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n")
        assert connection.recv(9)
        server.close()
        taking.join()
    return len(os.listdir("/proc/self/fd"))

assert cycle() == cycle() == cycle()
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_no_descriptor_is_left(workers: int) -> None:
    """A server that was closed holds nothing open."""
    code = COUNT_DESCRIPTORS.replace("WORKERS", str(workers))
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=30)
    assert done.returncode == 0
