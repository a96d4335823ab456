"""Calls that no honest client makes: each is answered, and the next call is served."""

import gzip
import zlib

import h2.errors
import h2.events
import h2.settings
import pytest

from harness import (
    HOLD_STREAM,
    STREAM_HEADERS,
    UNARY,
    UNARY_HEADERS,
    App,
    PlainEncoder,
    RawClient,
    frame,
    request_headers,
    serves,
)

pytestmark = pytest.mark.usefixtures("others_are_served")


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
    answer = raw.call(request_headers(b"/" + b"x" * 60_000))
    assert (answer.status, "vs. 16384" in answer.text) == (8, True)
    assert app.server.counters()["calls_total"] == 1  # the bystander's
    assert serves(raw)


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
