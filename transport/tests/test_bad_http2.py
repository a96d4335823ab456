"""HTTP/2 that no honest client speaks: it is cut off, and the others are served."""

import contextlib
import socket
from random import Random

import h2.errors
import h2.events
import h2.settings
import pytest

from harness import (
    HOLD,
    HOLD_STREAM,
    PATIENCE_S,
    STREAM,
    UNARY,
    UNARY_HEADERS,
    App,
    PlainEncoder,
    RawClient,
    frame,
    request_headers,
    serves,
    serving,
)

pytestmark = pytest.mark.usefixtures("others_are_served")

PATHS = (UNARY, STREAM, HOLD, HOLD_STREAM, "/no")
FRAME_HEADERS, FRAME_SETTINGS, FRAME_PING = 1, 4, 6
FRAME_WINDOW_UPDATE, FRAME_CONTINUATION = 8, 9


def http2(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    """Put HTTP/2's header before a payload."""
    length = len(payload).to_bytes(3, "big")
    return length + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + bytes(50),
        bytes(range(256)) * 4,
    ],
)
def test_not_http_2(app: App, garbage: bytes) -> None:
    """Another protocol is cut off at once."""
    host, _, port = app.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(garbage)
        try:
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert app.server.counters()["refused_handshakes_total"] == 1


def test_silence_after_half_a_preface() -> None:
    """A peer that stops in its first line is cut off after the handshake time-out."""
    with serving(handshake_timeout_s=0.2) as app:
        host, _, port = app.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(b"PRI * HTT")
            while connection.recv(4096):
                pass
        assert app.server.counters()["refused_handshakes_total"] == 1


@pytest.mark.parametrize(
    "frames",
    [
        http2(FRAME_HEADERS, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", flags=5, stream=1),
        http2(FRAME_HEADERS, b"\xbf", flags=5, stream=1),  # index past the tables
        http2(FRAME_HEADERS, b"\x3f\xff\xff\xff\x7f", flags=5, stream=1),  # table size
        http2(FRAME_HEADERS, b"\x82", flags=5, stream=2),  # even number
        http2(FRAME_CONTINUATION, b"", stream=1),
        http2(FRAME_PING, b"short"),
        http2(FRAME_SETTINGS, b"\x00\x04\xff\xff\xff\xff"),  # window too large
        http2(0, b"data", stream=0),
        (1 << 23).to_bytes(3, "big") + bytes([0, 0]) + (1).to_bytes(4, "big"),  # frame too large
    ],
)
def test_broken_http_2(raw: RawClient, frames: bytes) -> None:
    """What breaks HTTP/2 itself ends the connection, with a reason."""
    raw.write(frames)
    assert raw.read_to_end() not in (None, 0)


def test_flood_of_continuations(app: App, raw: RawClient) -> None:
    """Headers without end are cut off."""
    raw.write(http2(FRAME_HEADERS, b"\x82", stream=1))
    flood = http2(FRAME_CONTINUATION, b"\x00\x01a\x7f" + b"x" * 10_000, stream=1) * 10

    def send() -> None:
        for _ in range(200):
            raw.write(flood)

    with pytest.raises(ConnectionError):
        send()
    assert app.server.counters()["bytes_in_total"] < 10_000_000


@pytest.mark.parametrize("size", [0, 1])
def test_flood_of_small_data_frames(raw: RawClient, size: int) -> None:
    """DATA frames that carry next to nothing are borne or end the connection."""
    body = frame(b"x" * 20_000)
    raw.open(UNARY_HEADERS, b"", end=False)
    small = b"".join(http2(0, body[n : n + 1] * size, stream=1) for n in range(20_000))
    with contextlib.suppress(ConnectionError):
        raw.write(small + http2(0, body[20_000 * size :], flags=1, stream=1))
    answer = raw.answers[1]
    while raw.step() and not answer.ended:
        pass
    assert raw.closed or answer.body == body


def test_streams_that_make_the_server_reset(app: App, raw: RawClient) -> None:
    """A peer whose errors make the server reset its own streams is cut off."""
    app_headers = PlainEncoder().encode(request_headers(HOLD.encode()))
    attack = b"".join(
        http2(FRAME_HEADERS, app_headers if n == 1 else b"", flags=4, stream=n)
        + http2(FRAME_WINDOW_UPDATE, bytes(4), stream=n)
        for n in range(1, 8_001, 2)
    )
    with contextlib.suppress(ConnectionError):
        raw.write(attack)
    assert raw.read_to_end() != 0
    assert app.server.counters()["calls"] <= 1  # the bystander's


@pytest.mark.parametrize("seed", range(20))
def test_random_frames(app: App, seed: int) -> None:
    """Frames at random, some well formed, never harm anybody but their sender."""
    random = Random(seed)
    good = PlainEncoder().encode(request_headers(random.choice(PATHS).encode()))
    for _ in range(10):
        with RawClient(app.address) as raw, contextlib.suppress(ConnectionError):
            number = 1
            for _ in range(random.randrange(1, 60)):
                kind = random.choice([0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255])
                payload = random.choice(
                    [good, frame(b"x"), b"", random.randbytes(random.randrange(40)), bytes(4)]
                )
                flags = random.choice([0, 1, 4, 5, 8, 0x20, 0x2D, 0xFF])
                raw.write(http2(kind, payload, flags=flags, stream=random.choice([0, number, 2])))
                number += random.choice([0, 0, 2])
    assert app.server.counters()["refused_handshakes_total"] == 0


def test_window_of_zero_and_back(raw: RawClient) -> None:
    """A peer that closes its window gets its answer when it opens it again."""
    raw.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    raw.flush()
    body = frame(b"x" * 200_000)
    number = raw.open(UNARY_HEADERS, b"", end=False)
    while not any(isinstance(event, h2.events.SettingsAcknowledged) for event in raw.other):
        raw.step()
    sent = 0
    while sent < len(body):
        room = min(raw.http.local_flow_control_window(number), 16384, len(body) - sent)
        if room == 0:
            raw.step()
            continue
        raw.http.send_data(number, body[sent : sent + room])
        sent += room
        raw.flush()
    raw.http.end_stream(number)
    raw.flush()
    while not raw.answers[number].headers:
        raw.step()
    assert raw.answers[number].body == b""
    raw.http.increment_flow_control_window(1 << 20, number)
    raw.flush()
    assert raw.answer(number).body == body


def test_reset_before_the_application_looks(app: App, raw: RawClient) -> None:
    """A call that was reset at once costs the application at most two events."""
    number = raw.open(request_headers(HOLD.encode()), frame(b"gone"))
    raw.http.reset_stream(number)
    raw.flush()
    assert serves(raw)
    if not app.has_no_event():
        app.expect("request")
        app.expect("cancelled")
    assert app.server.counters()["calls"] == 0
