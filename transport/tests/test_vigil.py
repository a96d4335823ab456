"""Connections that are silent, idle, old or stuck, and those that only look like it."""

import h2.errors
import h2.events

from harness import HOLD_HEADERS, HOLD_STREAM_HEADERS, UNARY_HEADERS, RawClient, frame, serving


def test_keepalive_drops_a_dead_peer() -> None:
    """A peer that does not answer a ping is dropped, and its calls with it."""
    with serving(keepalive_time_s=0.5, keepalive_timeout_s=0.5) as app:
        with RawClient(app.address) as raw:
            raw.open(HOLD_HEADERS, frame(b""))
            call = app.expect("request").call  # from here on, the client reads nothing
            assert app.expect("cancelled").call is call
        assert app.server.counters()["dropped_keepalive_total"] == 1


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
        assert app.server.counters()["dropped_old_total"] == 1


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
        assert app.server.counters()["dropped_stalled_total"] == 1
