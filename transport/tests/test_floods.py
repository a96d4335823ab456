"""Floods of frames that cost their sender nothing: it loses its connection, nobody else does."""

import h2.errors
import h2.events
import pytest

from harness import HOLD_HEADERS, UNARY_HEADERS, RawClient, frame, serving

# Closing while more comes in may cost the peer the last bytes that were sent to it.
CALM = (h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, None)


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
            if app.server.counters()["dropped_floods_total"]:
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
        assert app.server.counters()["dropped_floods_total"] == 1


def test_pings_too_often() -> None:
    """A peer that pings too often without being sent anything loses its connection."""
    with serving(min_ping_interval_s=60) as app, RawClient(app.address) as raw:
        for _ in range(5):
            raw.http.ping(b"anyone??")
            raw.flush()
            raw.step()
        assert raw.read_to_end() == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
