"""Compressed requests and replies, and what pretends to be one, on every transport."""

import gzip
import zlib
from collections.abc import Iterator

import grpc
import pytest

from service.transport.seam import Kind, Limits
from tests.integration.transport.conftest import Run
from tests.integration.transport.test_calls import ping
from tests.support.engine import ECHO, ECHO_STREAM, Engine
from tests.support.http2 import RawClient, framed
from tests.support.stub import refusal, stream, unary
from tests.support.waiting import WAIT_S

SMALL = Limits(message_bytes=1 << 20)
TEXT = b"penstock " * 1000
NOISE = bytes(range(256)) * 4  # below the size where compression pays


@pytest.fixture
def compressing(run: Run) -> Iterator[tuple[Engine, RawClient]]:
    """Run a transport that compresses replies, and connect without a gRPC library."""
    engine = run(compress_replies=True)
    client = RawClient(engine.address)
    yield engine, client
    client.close()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_request_is_understood(engine: Engine, compression: grpc.Compression) -> None:
    """A compressed request arrives as what it was before."""
    with grpc.insecure_channel(engine.address, compression=compression) as channel:
        assert unary(channel, ECHO)(TEXT, timeout=WAIT_S) == TEXT
        replies = stream(channel, ECHO_STREAM)(iter([TEXT] * 3), timeout=WAIT_S)
        assert list(replies) == [TEXT] * 3


def test_compressed_bomb_is_capped(run: Run) -> None:
    """A small message that inflates to far above the limit is refused, and the server lives."""
    engine = run(limits=SMALL)
    with grpc.insecure_channel(engine.address, compression=grpc.Compression.Gzip) as channel:
        code, _ = refusal(unary(channel, ECHO), bytes(200 << 20))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert engine.seen(Kind.REQUEST) == []
        ping(channel)


@pytest.mark.parametrize(
    ("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
def test_limit_holds_for_the_inflated_size(run: Run, encoding: bytes, pack: type[bytes]) -> None:
    """A compressed message of exactly the limit passes; one byte more is RESOURCE_EXHAUSTED."""
    engine = run(limits=SMALL)
    client = RawClient(engine.address)
    limit = SMALL.message_bytes
    for size, status in ((limit - 1, 0), (limit, 0), (limit + 1, 8)):
        called = client.open(ECHO.encode(), grpc_encoding=encoding)
        client.send(called, framed(pack(bytes(size)), flag=1))
        assert client.answer(called).grpc_status == status
    client.close()


def test_reply_is_compressed_for_those_who_take_it(
    compressing: tuple[Engine, RawClient],
) -> None:
    """A large reply comes in gzip when the client says that it takes it, and says so."""
    _, client = compressing
    called = client.open(ECHO.encode(), grpc_accept_encoding=b"identity, deflate, gzip")
    client.send(called, framed(TEXT))
    answer = client.answer(called)
    assert answer.headers[b"grpc-encoding"] == b"gzip"
    assert answer.body[0] == 1
    assert len(answer.body) < len(TEXT) // 10
    assert gzip.decompress(answer.body[5:]) == TEXT


@pytest.mark.parametrize("accepted", [b"identity", b"identity,deflate", b"gzipped", None])
def test_reply_is_plain_for_others(
    compressing: tuple[Engine, RawClient], accepted: bytes | None
) -> None:
    """A client that does not take gzip is answered without compression.

    The threaded transport also knows deflate, and uses it for those who take nothing else.
    """
    engine, client = compressing
    if accepted == b"identity,deflate" and engine.transport.name == "threaded":
        accepted = b"identity"
    headers = {} if accepted is None else {"grpc_accept_encoding": accepted}
    called = client.open(ECHO.encode(), **headers)
    client.send(called, framed(TEXT))
    answer = client.answer(called)
    assert (answer.grpc_status, answer.body) == (0, framed(TEXT))


@pytest.mark.parametrize("message", [b"", b"x" * 2000], ids=["empty", "small"])
def test_reply_is_plain_where_it_does_not_pay(
    compressing: tuple[Engine, RawClient], message: bytes
) -> None:
    """A reply that fits into a packet or two is not compressed."""
    _, client = compressing
    called = client.open(ECHO.encode(), grpc_accept_encoding=b"gzip")
    client.send(called, framed(message))
    assert client.answer(called).body == framed(message)


def test_reply_is_plain_unless_asked_for(engine: Engine) -> None:
    """Without the setting nothing is compressed."""
    client = RawClient(engine.address)
    called = client.open(ECHO.encode(), grpc_accept_encoding=b"gzip")
    client.send(called, framed(TEXT))
    assert client.answer(called).body == framed(TEXT)
    client.close()


def test_compressed_answers_of_a_stream(compressing: tuple[Engine, RawClient]) -> None:
    """Large and small answers of one stream arrive unchanged, in order."""
    engine, _ = compressing
    messages = [TEXT, b"", NOISE, TEXT * 50, b"x"] * 5
    with grpc.insecure_channel(engine.address) as channel:
        replies = stream(channel, ECHO_STREAM)(iter(messages), timeout=WAIT_S)
        assert list(replies) == messages
        assert unary(channel, ECHO)(TEXT, timeout=WAIT_S) == TEXT
