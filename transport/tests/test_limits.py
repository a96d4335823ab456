"""Limits: each refuses what is over it, with the status it promises, and nobody else notices."""

import resource
import socket
import subprocess
import sys
import threading
from pathlib import Path

import grpc
import h2.errors
import h2.events
import pytest

from harness import (
    HOLD,
    HOLD_STREAM,
    PATIENCE_S,
    STREAM,
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

HOLD_HEADERS = request_headers(HOLD.encode())
HOLD_STREAM_HEADERS = request_headers(HOLD_STREAM.encode())
STREAM_HEADERS = request_headers(STREAM.encode())
UNARY_HEADERS = request_headers(UNARY.encode())

# Closing while more comes in may cost the peer the last bytes that were sent to it.
CALM = (h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, None)


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
        assert app.server.counters()["refused_calls"] == 1


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
        assert app.server.counters()["refused_connections"] == 1
        with dialled(app) as channel:
            echo = unary(channel, UNARY)
            assert echo(b"x", timeout=PATIENCE_S, wait_for_ready=True) == b"x"


def test_header_list() -> None:
    """Headers over the limit do not become a call."""
    with serving(header_list_bytes=2000) as app, RawClient(app.address) as raw:
        answer = raw.call([*UNARY_HEADERS, (b"k", b"v" * 3000)], frame(b""))
        assert answer.headers.get(b":status") == b"431" or answer.reset is not None
        assert raw.call([*UNARY_HEADERS, (b"k", b"v" * 300)], frame(b"")).status == 0


def test_rapid_resets() -> None:
    """A peer that opens streams only to reset them loses its connection."""
    with serving(resets_per_second=50) as app:
        with RawClient(app.address) as raw, RawClient(app.address) as other:
            assert other.call(UNARY_HEADERS, frame(b"")).status == 0
            for _ in range(500):
                number = raw.http.get_next_available_stream_id()
                raw.http.send_headers(number, HOLD_HEADERS)
                raw.http.reset_stream(number)
            raw.flush()
            assert raw.read_to_end() in CALM
            assert other.call(UNARY_HEADERS, frame(b"")).status == 0
        assert app.server.counters()["calls"] == 0


def test_resets_of_calls_in_progress() -> None:
    """Resets count against the rate also when each call has been seen before its reset."""
    with serving(resets_per_second=20) as app, RawClient(app.address) as raw:
        opened = 0
        while opened < 1000:
            number = raw.open(HOLD_HEADERS, frame(b""))
            app.expect("request")
            opened += 1
            raw.http.reset_stream(number)
            raw.flush()
            app.expect("cancelled")
            if app.server.counters()["refused_floods"]:
                break
        assert 20 < opened < 1000
        assert raw.read_to_end() in CALM


def test_honest_cancellations_are_no_flood() -> None:
    """A client that cancels now and then, below the rate, keeps its connection."""
    with serving(resets_per_second=1000) as app, RawClient(app.address) as raw:
        for _ in range(200):
            number = raw.open(HOLD_HEADERS, frame(b""))
            app.expect("request")
            raw.http.reset_stream(number)
            raw.flush()
            app.expect("cancelled")
        assert raw.call(UNARY_HEADERS, frame(b"")).status == 0


@pytest.mark.parametrize(
    "flood",
    [
        bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + bytes(8),  # PING
        bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),  # SETTINGS
        bytes([0, 0, 5, 2, 0, 0, 0, 0, 1]) + bytes([0, 0, 0, 0, 1]),  # PRIORITY
    ],
    ids=["ping", "settings", "priority"],
)
def test_floods_of_control_frames(flood: bytes) -> None:
    """A peer that sends frames which only cost the server loses its connection."""
    with serving(control_frames_per_second=100, min_ping_interval_s=None) as app:
        with RawClient(app.address) as raw:
            raw.write(flood * 500)
            assert raw.read_to_end() in CALM
        assert app.server.counters()["refused_floods"] == 1


def test_pings_too_often() -> None:
    """A peer that pings too often without being sent anything loses its connection."""
    with serving(min_ping_interval_s=60) as app, RawClient(app.address) as raw:
        for _ in range(5):
            raw.http.ping(b"anyone??")
            raw.flush()
            raw.step()
        assert raw.read_to_end() == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


def test_keepalive_drops_a_dead_peer() -> None:
    """A peer that does not answer a ping is dropped, and its calls with it."""
    with serving(keepalive_time_s=0.5, keepalive_timeout_s=0.5) as app:
        with RawClient(app.address) as raw:
            raw.open(HOLD_HEADERS, frame(b""))
            call = app.expect("request").call  # from here on, the client reads nothing
            assert app.expect("cancelled").call is call
        assert app.server.counters()["dropped_keepalive"] == 1


def test_keepalive_leaves_a_living_peer() -> None:
    """A peer that answers pings stays, though it says nothing else."""
    with (
        serving(keepalive_time_s=0.05, keepalive_timeout_s=5) as app,
        RawClient(app.address) as raw,
    ):
        while sum(isinstance(one, h2.events.PingReceived) for one in raw.other) < 5:
            assert raw.step()
        assert raw.call(UNARY_HEADERS, frame(b"")).status == 0


def test_idle_connection_is_told_to_leave() -> None:
    """A connection without calls is closed after its time; one with a call is not."""
    with (
        serving(connection_idle_s=1.0) as app,
        RawClient(app.address) as busy,
        RawClient(app.address) as idle,
    ):
        busy.open(HOLD_HEADERS, frame(b""))
        call = app.expect("request").call
        assert idle.read_to_end() == 0
        call.finish(0, reply=b"")
        assert busy.answer(1).status == 0
        assert busy.read_to_end() == 0


def test_old_connection_is_told_to_leave() -> None:
    """A connection of the largest age goes when its calls have ended."""
    with serving(connection_age_s=0.5) as app, RawClient(app.address) as raw:
        raw.open(HOLD_HEADERS, frame(b""))
        call = app.expect("request").call
        while raw.goaway is None:
            assert raw.step()
        call.finish(0, reply=b"done")
        assert raw.answer(1).body == frame(b"done")
        assert raw.read_to_end() == 0


def test_old_connection_is_dropped_after_its_grace() -> None:
    """A call cannot keep an old connection for ever."""
    with serving(connection_age_s=0.5, connection_age_grace_s=0.5) as app:
        with RawClient(app.address) as raw:
            raw.open(HOLD_HEADERS, frame(b""))
            app.expect("request")
            raw.read_to_end()
            app.expect("cancelled")
        assert app.server.counters()["dropped_old"] == 1


def test_stream_window() -> None:
    """A stream is handed no more messages than its window, until some are settled."""
    with serving(stream_window=3) as app, RawClient(app.address) as raw:
        raw.open(HOLD_STREAM_HEADERS, b"".join(frame(b"%d" % n) for n in range(10)))
        call = app.expect("opened").call
        assert [app.expect("message").message for _ in range(3)] == [b"0", b"1", b"2"]
        assert raw.call(UNARY_HEADERS, frame(b"")).status == 0  # time for more to come
        assert app.has_no_event()
        call.settle(2)
        assert [app.expect("message").message for _ in range(2)] == [b"3", b"4"]
        call.send(b"answer", settles=1)
        assert app.expect("message").message == b"5"
        assert app.has_no_event()
        call.settle(100)
        assert [app.expect("message").message for _ in range(3)] == [b"6", b"7", b"8"]


def test_stream_window_bytes() -> None:
    """Large messages close the window earlier; one larger than it is let through alone."""
    with serving(stream_window_bytes=1000) as app, RawClient(app.address) as raw:
        body = frame(b"x" * 5000) + frame(b"y" * 600) + frame(b"z" * 600) + frame(b"!")
        raw.open(HOLD_STREAM_HEADERS, body)
        call = app.expect("opened").call
        assert len(app.expect("message").message) == 5000
        assert raw.call(UNARY_HEADERS, frame(b"")).status == 0
        assert app.has_no_event()
        call.settle(1)
        assert [len(app.expect("message").message) for _ in range(2)] == [600, 600]
        call.settle(2)
        assert app.expect("message").message == b"!"


def test_peer_that_does_not_read_is_not_read_from() -> None:
    """Answers that nobody takes stop the reading of what asks for them."""
    with serving(stream_window=4, http2_stream_window=65535) as app, RawClient(app.address) as raw:
        message = b"x" * 20_000
        number = raw.open(STREAM_HEADERS, b"", end=False)
        sent = 0
        raw.socket.settimeout(0.3)
        try:  # this client never gives the server's answers any window
            while True:
                while raw.http.local_flow_control_window(number) < 16384:
                    for event in raw.http.receive_data(raw.socket.recv(65536)):
                        raw.other.append(event)
                    raw.flush()
                part = (frame(message) * 10)[:16384]
                raw.http.send_data(number, part)
                raw.flush()
                sent += len(part)
        except TimeoutError:
            pass
        assert sent < 1_000_000
        assert app.server.counters()["buffered_bytes"] < 200_000


def test_full_outgoing_window() -> None:
    """`send` says when the peer does not keep up; all is sent when it does."""
    with serving(outgoing_window_bytes=100_000) as app, RawClient(app.address) as raw:
        number = raw.open(HOLD_STREAM_HEADERS, frame(b"go"))
        call = app.expect("opened").call
        had_room = [call.send(bytes([n]) * 20_000) for n in range(20)]
        assert had_room[0]
        assert not had_room[-1]
        call.finish(0)
        answer = raw.answer(number)
        assert answer.body == b"".join(frame(bytes([n]) * 20_000) for n in range(20))
        assert answer.status == 0


def test_unread_connection_gets_no_new_calls() -> None:
    """A connection with too much that waits for it is refused more."""
    with serving(connection_outgoing_bytes=100_000) as app, RawClient(app.address) as raw:
        number = raw.open(HOLD_STREAM_HEADERS, frame(b"go"))
        call = app.expect("opened").call
        app.expect("message")
        app.expect("half-closed")
        call.send(b"x" * 500_000)
        refused = raw.open(UNARY_HEADERS, frame(b""))
        while not raw.answers[refused].ended:
            for event in raw.http.receive_data(raw.socket.recv(65536)):
                if isinstance(event, h2.events.ResponseReceived) and event.stream_id == refused:
                    raw.answers[refused].headers.update(event.headers or ())
                    raw.answers[refused].ended = True
        assert raw.answers[refused].status == 8
        assert number == 1


def test_peer_that_takes_nothing_is_dropped() -> None:
    """A window that stays closed ends the connection after the send time-out."""
    with serving(send_timeout_s=0.3) as app, RawClient(app.address) as raw:
        raw.open(HOLD_STREAM_HEADERS, frame(b"go"))
        call = app.expect("opened").call
        app.expect("message")
        app.expect("half-closed")
        call.send(b"x" * 500_000)
        while raw.socket.recv(65536):  # read, but give no window
            pass
        assert app.expect("cancelled").call is call
        assert app.server.counters()["dropped_stalled"] == 1


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
        assert app.server.counters()["refused_memory"] == 1


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

SERVE_WITH_FEW_DESCRIPTORS = f"""
import os, resource, sys, threading
from penstock_transport import Server
server = Server(["127.0.0.1:0"], {{"{UNARY}": "unary"}}, keepalive_time_s=None)
[address] = server.start()
used = len(os.listdir("/proc/self/fd"))
limit = used + {DESCRIPTORS}
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
print(address, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), server.close())).start()
while not server.closed:
    server.reply_many([(event.call, event.message) for event in server.take(64)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_utime, flush=True)
"""


def test_no_descriptors_left() -> None:
    """Without descriptors accepting pauses, those inside are served, and it recovers."""
    command = [sys.executable, "-c", SERVE_WITH_FEW_DESCRIPTORS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        host, _, port = address.rpartition(":")
        with RawClient(address) as inside:
            assert inside.call(UNARY_HEADERS, frame(b"")).status == 0
            crowd = [socket.create_connection((host, int(port))) for _ in range(CLIENTS)]
            assert inside.call(UNARY_HEADERS, frame(b"")).status == 0
            for one in crowd:
                one.close()
            with RawClient(address) as newcomer:
                assert newcomer.call(UNARY_HEADERS, frame(b"")).status == 0
        out, _ = process.communicate("", timeout=PATIENCE_S)
        assert float(out) < 5
        assert process.returncode == 0


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


def test_memory_stays_while_calls_are_cancelled(app: App) -> None:
    """Ten thousand calls that are cancelled at once leave no memory behind."""
    with dialled(app) as channel:
        echo = unary(channel, UNARY)

        def storm(count: int) -> int:
            for _ in range(count):
                echo.future(b"x" * 1000).cancel()
            assert echo(b"after", timeout=PATIENCE_S) == b"after"
            return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

        before = storm(2_000)
        after = storm(8_000)
    assert app.server.counters()["calls"] == 0
    assert after - before < 16 << 20  # server and client together


def test_threads_that_answer_at_once(app: App) -> None:
    """Answers of many threads to one stream arrive whole, and the end comes last."""
    with dialled(app) as channel:
        call = stream(channel, HOLD_STREAM)(iter([b""]), timeout=PATIENCE_S)
        served = app.expect("opened").call

        def answer(n: int) -> None:
            for _ in range(200):
                served.send(bytes([n]) * 100)

        threads = [threading.Thread(target=answer, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        served.finish(0)
        replies = list(call)
    assert len(replies) == 1600
    assert all(len(set(reply)) == 1 and len(reply) == 100 for reply in replies)
