"""What no honest client sends: each is answered or cut off, and the next call is served."""

import contextlib
import gzip
import socket
import zlib
from collections.abc import Iterator
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
    App,
    PlainEncoder,
    RawClient,
    frame,
    request_headers,
    serving,
)

UNARY_HEADERS = request_headers(UNARY.encode())
STREAM_HEADERS = request_headers(STREAM.encode())
PATHS = (UNARY, STREAM, HOLD, HOLD_STREAM, "/no")
FRAME_HEADERS, FRAME_SETTINGS, FRAME_PING = 1, 4, 6
FRAME_WINDOW_UPDATE, FRAME_CONTINUATION = 8, 9


def http2(kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> bytes:
    """Put HTTP/2's header before a payload."""
    length = len(payload).to_bytes(3, "big")
    return length + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def serves(client: RawClient) -> bool:
    """Tell whether a good call is answered on this connection."""
    answer = client.call(UNARY_HEADERS, frame(b"alive"))
    return answer.status == 0 and answer.body == frame(b"alive")


@pytest.fixture(autouse=True)
def _others_are_served(app: App) -> Iterator[None]:
    with RawClient(app.address) as bystander:
        assert serves(bystander)
        yield
        assert serves(bystander)
    with RawClient(app.address) as newcomer:
        assert serves(newcomer)


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"//",
        b"*",
        b"no-slash",
        b"/test.Echo/unary",
        b"/test.Echo/Unary/",
        b"//test.Echo/Unary",
        b"/%74est.Echo/Unary",
        b"/test.Echo/\xc3\xa9",
        b"/" + b"x" * 9_000,
    ],
)
def test_path_that_is_no_method(raw: RawClient, path: bytes) -> None:
    """A path that names no method is refused on its stream alone."""
    answer = raw.call(request_headers(path))
    assert answer.reset is not None or answer.status == 12
    assert serves(raw)


@pytest.mark.parametrize("path", [b"", b"/a\x00b", b"/a b", b"/a\x7f", b"/a\n"])
def test_path_that_http_forbids(raw: RawClient, path: bytes) -> None:
    """A path that cannot be a path resets its stream alone."""
    assert raw.call(request_headers(path)).reset == h2.errors.ErrorCodes.PROTOCOL_ERROR
    assert serves(raw)


NOT_UTF_8 = [b"/\xff", b"/test.Echo/\xe9\x7e", b"/\x80", b"/test.Echo/Unary\xc3"]


@pytest.mark.parametrize("path", NOT_UTF_8)
def test_path_that_is_not_utf_8(raw: RawClient, path: bytes) -> None:
    """Bytes that are no text name no method: the call is refused, its connection lives."""
    raw.http.encoder = PlainEncoder()
    assert serves(raw)
    answer = raw.call(request_headers(path))
    assert (answer.status, answer.text) == (12, "Method not found!")
    assert serves(raw)
    assert raw.call(request_headers(path)).status == 12
    assert serves(raw)


@pytest.mark.parametrize("path", NOT_UTF_8)
def test_path_that_is_not_utf_8_in_huffman_code(raw: RawClient, path: bytes) -> None:
    """In Huffman code they cost their sender the connection, and nobody else anything."""
    raw.open(request_headers(path))
    assert raw.read_to_end() == h2.errors.ErrorCodes.PROTOCOL_ERROR


def test_authority_of_a_unix_socket(raw: RawClient) -> None:
    """Clients on Unix sockets may name the socket where a host is expected."""
    raw.http.encoder = PlainEncoder()
    headers = [*UNARY_HEADERS[:3], (b":authority", b"%2Ftmp%2Fsocket"), *UNARY_HEADERS[4:]]
    for _ in range(3):
        assert raw.call(headers, frame(b"x")).status == 0


def test_path_of_60_kilobytes(app: App, raw: RawClient) -> None:
    """Headers over the limit are refused before they become a call."""
    raw.open(request_headers(b"/" + b"x" * 60_000))
    answer = raw.answers[1]
    while not raw.closed and answer.reset is None and not answer.ended:
        raw.step()
    assert raw.closed or answer.reset is not None or answer.headers[b":status"] == b"431"
    assert app.server.counters()["calls_total"] == 1  # the bystander's


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (request_headers(UNARY.encode(), method=b"GET"), b"405"),
        ([*UNARY_HEADERS[:5], (b"content-type", b"application/json")], b"415"),
        ([*UNARY_HEADERS[:5], (b"content-type", b"application/grpcx")], b"415"),
        (UNARY_HEADERS[:5], b"415"),
    ],
)
def test_request_that_is_not_grpc(raw: RawClient, headers: list[object], status: bytes) -> None:
    """What is not gRPC is answered as HTTP answers it."""
    answer = raw.call(headers, frame(b""))  # type: ignore[arg-type]
    assert answer.headers[b":status"] == status
    assert serves(raw)


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc;charset=utf-8"])
def test_content_types_of_grpc(raw: RawClient, kind: bytes) -> None:
    """The content type may have a suffix or parameters."""
    assert raw.call([*UNARY_HEADERS[:5], (b"content-type", kind)], frame(b"x")).status == 0


@pytest.mark.parametrize(
    ("extra", "status", "part"),
    [
        ((b"grpc-timeout", b"1"), 13, "grpc-timeout"),
        ((b"grpc-timeout", b"-1S"), 13, "grpc-timeout"),
        ((b"grpc-timeout", b"999999999S"), 13, "grpc-timeout"),
        ((b"grpc-timeout", b"0m"), 4, "Deadline"),
        ((b"grpc-encoding", b"snappy"), 12, "snappy"),
        ((b"key-bin", b"!!"), 13, "key-bin"),
    ],
)
def test_bad_metadata(raw: RawClient, extra: tuple[bytes, bytes], status: int, part: str) -> None:
    """Headers of gRPC that are malformed are named in the answer."""
    answer = raw.call([*UNARY_HEADERS, extra], frame(b""))
    assert (answer.status, part in answer.text) == (status, True)
    if status == 12:
        assert answer.headers[b"grpc-accept-encoding"] == b"identity,deflate,gzip"
    assert serves(raw)


def test_thousands_of_headers(app: App, raw: RawClient) -> None:
    """Many small headers are counted like few large ones."""
    many = [(b"k%d" % n, b"v") for n in range(10_000)]
    raw.open(request_headers(UNARY.encode(), *many))
    answer = raw.answers[1]
    while not raw.closed and answer.reset is None and not answer.ended:
        raw.step()
    assert raw.closed or answer.reset is not None or answer.headers[b":status"] == b"431"
    assert app.server.counters()["calls_total"] == 1  # the bystander's


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b"", 3, "no message"),
        (frame(b"a") + frame(b"b"), 3, "more than one"),
        (frame(b"a", flag=2), 13, "flag is 2"),
        (frame(b"a", flag=255), 13, "flag is 255"),
        (frame(b"a", flag=1), 13, "names no encoding"),
        (frame(b"", length=(1 << 32) - 1), 8, "4294967295"),
        (frame(b"", length=(64 << 20) + 1), 8, "67108864"),
        (frame(b"abc", length=10), 13, "middle of a message"),
        (b"\x00\x00", 13, "middle of a message"),
    ],
)
def test_bad_frames(raw: RawClient, body: bytes, status: int, part: str) -> None:
    """Bytes that are not one message are explained."""
    answer = raw.call(UNARY_HEADERS, body)
    assert (answer.status, part in answer.text) == (status, True), answer
    assert serves(raw)


def test_oversize_is_refused_at_the_header(raw: RawClient) -> None:
    """A length over the limit is refused though nothing of the message follows."""
    number = raw.open(UNARY_HEADERS, frame(b"", length=(1 << 32) - 1), end=False)
    assert raw.answer(number).status == 8
    assert serves(raw)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 1000])
def test_message_in_pieces(raw: RawClient, size: int) -> None:
    """DATA frames may cut a message anywhere, and may be empty."""
    body = frame(b"m" * 1999) + frame(b"") + frame(b"n")
    number = raw.open(STREAM_HEADERS, b"", end=False)
    for start in range(0, len(body), size):
        raw.http.send_data(number, body[start : start + size])
    raw.http.end_stream(number)
    raw.flush()
    assert raw.answer(number).body == body
    assert serves(raw)


def test_bad_frame_in_a_stream(app: App, raw: RawClient) -> None:
    """A stream that goes wrong is cancelled for the application and ended for the peer."""
    headers = request_headers(HOLD_STREAM.encode())
    number = raw.open(headers, frame(b"good"), end=False)
    call = app.expect("opened").call
    assert app.expect("message").message == b"good"
    raw.http.send_data(number, frame(b"bad", flag=9))
    raw.flush()
    assert app.expect("cancelled").call is call
    answer = raw.answer(number)
    assert (answer.status, answer.text) == (13, "Message flag is 9, expected 0 or 1")
    call.finish(0)
    assert serves(raw)


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [(b"gzip", gzip.compress), (b"deflate", zlib.compress)],
)
def test_bad_compression(raw: RawClient, encoding: bytes, compress: type[bytes]) -> None:
    """A compressed message that is broken or a bomb is refused, at the cap."""
    headers = [*UNARY_HEADERS, (b"grpc-encoding", encoding)]
    good = compress(b"hello" * 100)
    assert raw.call(headers, frame(good, flag=1)).body == frame(b"hello" * 100)
    bomb = compress(bytes((64 << 20) + 1))
    for body, status in (
        (frame(good[:-1], flag=1), 13),
        (frame(good + b"more", flag=1), 13),
        (frame(b"\xff" * 100, flag=1), 13),
        (frame(b"", flag=1), 13),
        (frame(bomb, flag=1), 8),
    ):
        answer = raw.call(headers, body)
        assert answer.status == status, answer
    assert serves(raw)


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
    assert app.server.counters()["refused_handshakes"] == 1


def test_silence_after_half_a_preface() -> None:
    """A peer that stops in its first line is cut off after the handshake time-out."""
    with serving(handshake_timeout_s=0.2) as app:
        host, _, port = app.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            connection.sendall(b"PRI * HTT")
            while connection.recv(4096):
                pass
        assert app.server.counters()["refused_handshakes"] == 1


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
    assert app.server.counters()["bytes_in"] < 10_000_000


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
    assert app.server.counters()["refused_handshakes"] == 0


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
