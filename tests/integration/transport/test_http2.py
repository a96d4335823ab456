"""What no gRPC client sends: raw HTTP/2, on every transport. The server must serve on."""

import socket
from collections.abc import Iterator

import grpc
import pytest

from service.transport.seam import Kind
from tests.integration.transport.test_calls import ping
from tests.support.engine import ECHO, HOLD, Engine
from tests.support.http2 import RawClient, framed
from tests.support.waiting import eventually

_UNIMPLEMENTED = 12
_OK = 0


@pytest.fixture
def raw(engine: Engine) -> Iterator[RawClient]:
    """Connect without a gRPC library."""
    client = RawClient(engine.address)
    yield client
    client.close()


def assert_serves(engine: Engine) -> None:
    """Fail unless a client that connects now is served."""
    with grpc.insecure_channel(engine.address) as channel:
        ping(channel, 3)


def test_call_by_hand_is_answered(raw: RawClient) -> None:
    """The raw client speaks gRPC well enough to be answered when it is good."""
    stream = raw.open(ECHO.encode())
    raw.send(stream, framed(b"hello"))
    answer = raw.answer(stream)
    assert answer.grpc_status == _OK
    assert answer.body == framed(b"hello")


@pytest.mark.parametrize(
    "path",
    [
        b"/test.Echo/\xff\xfe",
        b"\xff",
        b"/\x80\x81/\xc3\x28",
        b"",
        b"*",
        b"test.Echo/Unary",
        b"/" * 100,
        b"/test.Echo/Unary\0",
        b"/test.Echo/" + b"x" * 6000,
    ],
    ids=[
        "not utf-8",
        "one byte",
        "overlong",
        "empty",
        "star",
        "no slash",
        "slashes",
        "nul",
        "6 KB",
    ],
)
def test_impossible_path_does_no_harm(engine: Engine, raw: RawClient, path: bytes) -> None:
    """A :path that names nothing is UNIMPLEMENTED or an error of the stream; the server lives."""
    stream = raw.open(path)
    raw.send(stream, framed(b""))
    answer = raw.answer(stream)
    assert answer.grpc_status not in (None, _OK) or answer.reset is not None or _is_refusal(answer)
    assert_serves(engine)
    assert engine.seen(Kind.REQUEST)[0].call.method == ECHO  # of assert_serves: the first seen


def _is_refusal(answer: object) -> bool:
    headers: dict[bytes, bytes] = getattr(answer, "headers", {})
    return headers.get(b":status", b"200") != b"200"


def test_path_that_is_not_utf8_harms_no_other_connection(
    engine: Engine, raw: RawClient, channel: grpc.Channel
) -> None:
    """Such a path is refused, and calls on other connections go on.

    The threaded transport answers UNIMPLEMENTED. The native one does so too for a plain path; in
    Huffman code, as here, its HTTP/2 library ends the peer's own connection.
    """
    ping(channel)
    stream = raw.open(b"/\xff/\xff")
    raw.send(stream, framed(b"x"))
    answer = raw.answer(stream)
    if engine.transport.name == "threaded":
        assert answer.grpc_status == _UNIMPLEMENTED
    else:
        assert answer.reset is not None
    ping(channel)
    assert_serves(engine)


@pytest.mark.parametrize("content_type", [b"text/plain", b"application/json", b""])
def test_wrong_content_type_does_no_harm(
    engine: Engine, raw: RawClient, content_type: bytes
) -> None:
    """A request that is no gRPC is refused or answered, and the server lives."""
    stream = raw.open(ECHO.encode(), content_type=content_type)
    raw.send(stream, framed(b"x"))
    answer = raw.answer(stream)
    assert answer.headers or answer.reset is not None
    assert_serves(engine)


@pytest.mark.parametrize(
    "data",
    [
        framed(b"short")[:-2],
        framed(b"x", flag=2),
        framed(b"x", flag=255),
        framed(b"not gzip", flag=1),
        b"\0\xff\xff\xff\xff",
        b"\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["cut", "flag 2", "flag 255", "not gzip", "4 GiB", "half a prefix", "http"],
)
def test_garbage_in_data_does_no_harm(engine: Engine, raw: RawClient, data: bytes) -> None:
    """DATA that is no message is never taken for contents; the server lives."""
    stream = raw.open(ECHO.encode())
    raw.send(stream, data)
    answer = raw.answer(stream)
    # grpcio at times takes a broken frame for an empty message.
    assert answer.grpc_status != _OK or answer.body == framed(b"")
    assert_serves(engine)


@pytest.mark.parametrize("data", [b"\xff" * 5, framed(b"one") + framed(b"two"), b""])
def test_call_with_other_than_one_message_does_no_harm(
    engine: Engine, raw: RawClient, data: bytes
) -> None:
    """A unary call with no message or with two ends somehow, alone; the server lives."""
    stream = raw.open(ECHO.encode())
    raw.send(stream, data)
    answer = raw.answer(stream)
    assert answer.headers or answer.reset is not None
    assert_serves(engine)


def test_declared_size_above_the_limit_is_refused_at_once(raw: RawClient) -> None:
    """A prefix that declares 4 GiB is refused before any of them is sent."""
    stream = raw.open(ECHO.encode())
    raw.send(stream, b"\0\xff\xff\xff\xff", ends=False)
    assert raw.answer(stream).grpc_status == 8


def test_rapid_resets_are_bounded(engine: Engine, raw: RawClient) -> None:
    """Hundreds of calls that are reset at once leave nothing behind."""
    for _ in range(300):
        try:
            stream = raw.open(HOLD.encode())
            raw.send(stream, framed(b""))
            raw.reset(stream)
        except (ConnectionError, BrokenPipeError):
            break  # the server has had enough: that is an answer too
    assert_serves(engine)
    eventually(lambda: engine.transport.counters()["calls"] == 0, "no call is in progress")
    held = engine.seen(Kind.REQUEST, HOLD)
    eventually(
        lambda: len(engine.seen(Kind.CANCELLED, HOLD)) == len(held), "all are told as cancelled"
    )


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(range(256)),
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI *",
    ],
    ids=["http/1.1", "noise", "client hello", "half a preface"],
)
def test_other_protocols_do_no_harm(engine: Engine, noise: bytes) -> None:
    """A peer that speaks something else gets nowhere, and others are served meanwhile."""
    host, _, port = engine.address.rpartition(":")
    with socket.create_connection((host, int(port)), 10) as peer:
        peer.sendall(noise)
        assert_serves(engine)
    assert_serves(engine)
