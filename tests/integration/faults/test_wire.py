"""Faults on the wire, group A of docs/faults.md: frames, messages, sizes, metadata."""

import gzip
import os
import random
import zlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from service.rpc.wire import varint
from tests.integration.faults.conftest import INFER, LIMIT_MIB, Guarded
from tests.support.http2 import Answer, RawClient, frame, framed
from tests.support.requests import answer, simple_request
from tests.support.stub import SERVICE, WAIT_S, refusal, unary

OK, CANCELLED, INVALID, EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 1, 3, 8, 12, 13
GOOD = simple_request().SerializeToString()
LIMIT = LIMIT_MIB << 20
DATA, HEADERS, CONTINUATION = 0, 1, 9
END_STREAM, END_HEADERS = 1, 4


def call(guarded: Guarded, body: bytes, path: bytes = INFER, **headers: bytes) -> Answer:
    """Make one call on a connection of its own, and return what came of it."""
    with guarded.connect() as client:
        stream = client.open(path, **headers)
        client.send_large(stream, body)
        return client.answer(stream)


@pytest.mark.parametrize(
    "path",
    [b"", b"*", b"no/slash", b"/\xff\xfe", b"/a\0b", b"/" + b"x" * 60_000, b"//", b"/%2e%2e/x"],
    ids=["empty", "star", "no slash", "not utf-8", "nul", "60 KB", "slashes", "escaped"],
)
def test_path_that_names_nothing(guarded: Guarded, path: bytes) -> None:
    """A1: A path that names no method is UNIMPLEMENTED or an error of its own stream.

    Over the limit of headers it is RESOURCE_EXHAUSTED. Threaded: without any path, CANCELLED.
    Native: a path that is not UTF-8, written in Huffman code, costs its sender the connection.
    """
    with guarded.unharmed():
        ended = call(guarded, framed(GOOD), path)
        refusals = (UNIMPLEMENTED, EXHAUSTED, *([CANCELLED] if path == b"" else []))
        assert ended.reset is not None or ended.grpc_status in refusals


@pytest.mark.parametrize("size", [1, 7, 300, 70_000, 1 << 20])
def test_random_bytes_as_a_message(guarded: Guarded, size: int) -> None:
    """A2: A message of random bytes is INVALID_ARGUMENT."""
    noise = b"\xff" + random.Random(size).randbytes(size - 1)
    with guarded.unharmed(2) as stub:
        code, text = refusal(stub.raw_infer, noise)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "malformed request" in text


def test_duplicate_fields(guarded: Guarded) -> None:
    """A4: Of a field that comes twice the last one counts, every time."""
    twice = b"\x0a\x04nope" + GOOD
    with guarded.unharmed() as stub:
        for _ in range(3):
            assert answer(stub.raw_infer(twice, timeout=WAIT_S), "OUTPUT0").size == 16


def test_unknown_fields_of_any_size(guarded: Guarded) -> None:
    """A4: Fields that nobody knows are ignored, as far as the message's limit goes."""
    unknown = b"\xfa\x3f" + b"\x80\x80\xc0\x01" + bytes(3 << 20)  # field 1023, 3 MiB
    with guarded.unharmed(4) as stub:
        assert answer(stub.raw_infer(GOOD + unknown, timeout=WAIT_S), "OUTPUT0").size == 16


@pytest.mark.parametrize(
    "part",
    [b"\x2a\x00", b"\x32\x00", b"\x22\x00", b"\x3a\x00", b"\xfa\x3f\x00"],
    ids=["inputs", "outputs", "parameters", "raw_input_contents", "unknown"],
)
def test_count_bomb(guarded: Guarded, part: bytes) -> None:
    """A7: A million empty parts are refused by their number, before they are parsed."""
    with guarded.unharmed(3) as stub:
        code, text = refusal(stub.raw_infer, b"\x0a\x06simple" + part * 1_000_000)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "too many" in text


def test_bomb_of_tiny_elements(guarded: Guarded) -> None:
    """A7: A million elements of two bytes each, and a million dimensions, take no memory."""
    elements = b"\x42\x00" * 1_000_000  # bytes_contents of InferTensorContents
    contents = b"\x2a" + varint(len(elements)) + elements
    tensor = b"\x0a\x01X\x12\x05BYTES\x1a\x02\x01\x01" + contents
    many = b"\x0a\x0eidentity_bytes" + b"\x2a" + varint(len(tensor)) + tensor
    dims = b"\x0a\x01X\x12\x05BYTES\x1a" + varint(1_000_000) + b"\x01" * 1_000_000
    deep = b"\x0a\x0eidentity_bytes" + b"\x2a" + varint(len(dims)) + dims
    with guarded.unharmed(4) as stub:
        for message in (many, deep):
            code, _ = refusal(stub.raw_infer, message)
            assert code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("size", [0, 1])
def test_flood_of_tiny_data_frames(guarded: Guarded, size: int) -> None:
    """A8: Thousands of DATA frames with next to nothing in them are borne, or end their call."""
    body = framed(GOOD)
    with guarded.unharmed(1):
        with guarded.connect() as client:
            stream = client.open(INFER)
            tiny = [frame(DATA, body[at : at + 1] * size, stream=stream) for at in range(len(body))]
            padding = [frame(DATA, b"", stream=stream)] * 5000
            rest = frame(DATA, body[len(body) * size :], flags=END_STREAM, stream=stream)
            client.write(b"".join([*padding, *tiny, rest]))
            ended = client.answer(stream)
        assert ended.grpc_status in (OK, EXHAUSTED) or ended.reset is not None


def test_empty_messages_of_a_stream(guarded: Guarded) -> None:
    """A8: A thousand empty messages of a stream get a thousand refusals, and the stream goes on."""
    with guarded.unharmed(1) as stub:
        replies = list(stub.raw_stream(iter([b""] * 1000 + [GOOD]), timeout=WAIT_S))
        assert len(replies) == 1001
        assert all(reply.error_message for reply in replies[:-1])
        assert not replies[-1].error_message


def test_announced_size_of_4_gib(guarded: Guarded) -> None:
    """A9: A message that is announced with 4 GiB is refused before anything of it comes."""
    with guarded.unharmed(), guarded.connect() as client:
        stream = client.open(INFER)
        client.send(stream, b"\0\xff\xff\xff\xff", ends=False)
        assert client.answer(stream).grpc_status == EXHAUSTED


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_bomb(guarded: Guarded, encoding: bytes) -> None:
    """A10: 128 KiB that inflate to 128 MiB are refused at the limit of a message."""
    pack = gzip.compress if encoding == b"gzip" else zlib.compress
    bomb = framed(pack(bytes(128 << 20)), flag=1)
    assert len(bomb) < 1 << 18
    with guarded.unharmed():
        ended = call(guarded, bomb, grpc_encoding=encoding)
        assert ended.grpc_status == EXHAUSTED


def test_bombs_together(guarded: Guarded) -> None:
    """A11: A hundred bombs at once take far less memory than a hundred times the limit."""
    bomb = framed(gzip.compress(bytes(32 << 20)), flag=1)
    with guarded.unharmed(8), ThreadPoolExecutor(25) as pool:  # 128 MiB; the limits make 400
        calls = [pool.submit(call, guarded, bomb, grpc_encoding=b"gzip") for _ in range(100)]
        assert {ended.result().grpc_status for ended in calls} == {EXHAUSTED}


@pytest.mark.parametrize("is_compressed", [False, True], ids=["plain", "gzip"])
def test_limit_is_inclusive(guarded: Guarded, is_compressed: bool) -> None:  # noqa: FBT001
    """A12: A message of the limit is read; one byte more is RESOURCE_EXHAUSTED."""
    with guarded.unharmed(3 * LIMIT_MIB):
        for size, status in ((LIMIT - 1, INVALID), (LIMIT, INVALID), (LIMIT + 1, EXHAUSTED)):
            message = b"\xff" * size  # not a request: what is read is refused as such
            body = framed(gzip.compress(message, 1), 1) if is_compressed else framed(message)
            extra = {"grpc_encoding": b"gzip"} if is_compressed else {}
            assert call(guarded, body, **extra).grpc_status == status


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (framed(GOOD, flag=2), {}),
        (framed(GOOD, flag=255), {}),
        (framed(gzip.compress(GOOD), flag=1), {}),
        (framed(zlib.compress(GOOD)[:-9], flag=1), {"grpc_encoding": b"deflate"}),
        (framed(GOOD, flag=1), {"grpc_encoding": b"gzip"}),
        (framed(GOOD)[:-3], {}),
    ],
    ids=["flag 2", "flag 255", "no encoding", "cut deflate", "not gzip", "cut message"],
)
def test_broken_message_frame(guarded: Guarded, body: bytes, headers: dict[str, bytes]) -> None:
    """A13: A broken frame of a message ends its call, and no other stream of its connection.

    Native: INTERNAL. Threaded: grpcio says INTERNAL, UNIMPLEMENTED or UNKNOWN, or takes the
    frame for an empty message, which is INVALID_ARGUMENT or NOT_FOUND.
    """
    with guarded.unharmed():
        with guarded.connect() as client:
            bad, good = client.open(INFER, **headers), client.open(INFER)
            client.send(bad, body)
            client.send(good, framed(GOOD))
            ended = client.answers(bad, good)
        assert ended[good].grpc_status == OK
        assert ended[bad].grpc_status != OK
        if guarded.transport == "native":
            assert ended[bad].grpc_status == INTERNAL


@pytest.mark.parametrize(
    ("path", "body", "statuses"),
    [
        (f"{SERVICE}/Nothing", framed(b""), {UNIMPLEMENTED}),
        ("/no.Service/ModelInfer", framed(b""), {UNIMPLEMENTED}),
        (f"{SERVICE}/ModelInfer", framed(GOOD) * 2, {INVALID}),
        (f"{SERVICE}/ModelInfer", b"", {INVALID}),
        (f"{SERVICE}/ModelStreamInfer", framed(GOOD), {OK}),
    ],
    ids=["no method", "no service", "two messages", "no message", "stream of one"],
)
def test_wrong_method_or_number_of_messages(
    guarded: Guarded, path: str, body: bytes, statuses: set[int]
) -> None:
    """A14: What is not served is UNIMPLEMENTED; a wrong number of messages INVALID_ARGUMENT.

    Threaded: grpcio takes the first of two messages, and ends a call without one as it likes.
    """
    with guarded.unharmed():
        ended = call(guarded, body, path.encode())
        if guarded.transport == "threaded" and statuses == {INVALID}:
            assert ended.headers or ended.reset is not None
        else:
            assert ended.grpc_status in statuses


@pytest.mark.parametrize(
    "extra",
    [
        [(b"key", b"v" * 8_000)],
        [(b"key", b"v" * 17_000)],
        [(b"key", b"v" * 64_000)],
        [(b"k%d" % index, b"v") for index in range(10_000)],
        [(b"key-bin", b"!!not base64!!")],
        [(b":authority", b"other")],
        [(b"Upper-Case", b"v")],
        [(b"connection", b"close")],
    ],
    ids=["8 KB", "17 KB", "64 KB", "10 000", "base64", "authority", "upper case", "connection"],
)
def test_impossible_metadata(guarded: Guarded, extra: list[tuple[bytes, bytes]]) -> None:
    """A15: Metadata that is too large or malformed is refused, with a status or by HTTP/2.

    What the library of HTTP/2 refuses by itself has no status of gRPC; the log grows by nothing
    that its sender could choose the length of.
    """
    log = guarded.server.log
    with guarded.unharmed(1):
        before = log.stat().st_size
        with guarded.connect() as client:
            settle(client)
            stream = client.open(INFER, *extra)
            client.send(stream, framed(GOOD))
            ended = client.answer(stream)
        if len(extra) == 1 and len(extra[0][1]) == 8_000:
            assert ended.grpc_status == OK
        else:
            assert ended.grpc_status != OK or guarded.transport == "threaded"
        if len(extra[0][1]) in (17_000, 64_000):
            assert ended.grpc_status == EXHAUSTED
        assert log.stat().st_size - before < 10_000


def settle(client: RawClient) -> None:
    """Make a good call: grpcio's limits hold once the peer has acknowledged its settings."""
    stream = client.open(INFER)
    client.send(stream, framed(GOOD))
    assert client.answer(stream).grpc_status == OK


def test_te_other_than_trailers(guarded: Guarded) -> None:
    """A15: A client that cannot take trailers is answered or refused, and nobody else notices."""
    with guarded.unharmed():
        ended = call(guarded, framed(GOOD), te=b"x")
        assert ended.headers or ended.reset is not None


def test_flood_of_continuations(guarded: Guarded) -> None:
    """A15: Headers that never end take no memory.

    Native: they are cut off. Threaded: grpcio reads them to their end, which never comes.
    """
    block = b"\0\x01a\x7f" + b"x" * 16_000
    with guarded.unharmed(), guarded.connect() as client:
        client.write(frame(HEADERS, b"\x82", stream=1))
        sent = 0
        while sent < 1000 and client.write(frame(CONTINUATION, block, stream=1)):
            sent += 1
        assert sent < 1000 or guarded.transport == "threaded"


@pytest.mark.parametrize(
    "block",
    [
        b"\xff" * 9 + b"\x7f",
        b"\x3f\xff\xff\xff\x7f",
        b"\xbf",
        b"\x82\x20\x3f\xe1\xff\x03",
        b"\x7f\x80\x80\x80\x80\x80\x80\x80\x80\x00",
    ],
    ids=["huge integer", "table size", "no such index", "size after fields", "zero padding"],
)
def test_broken_header_compression(guarded: Guarded, block: bytes) -> None:
    """A16: Broken HPACK costs its sender the connection.

    Threaded: grpcio hangs up without a word.
    """
    with guarded.unharmed(), guarded.connect() as client:
        client.write(frame(HEADERS, block, flags=END_STREAM | END_HEADERS, stream=1))
        assert client.read_to_end() != 0


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        bytes(range(256)),
        b"PRI * HTT",
        b"",
    ],
    ids=["http/1.1", "client hello", "noise", "half a preface", "silence"],
)
def test_other_protocols(guarded: Guarded, noise: bytes) -> None:
    """A17: A peer that does not speak HTTP/2 is hung up on, at the latest after the time-out."""
    with guarded.unharmed(), guarded.dial() as peer:
        peer.sendall(noise)
        try:
            while peer.recv(4096):
                pass
        except ConnectionResetError:
            pass


def test_garbage_on_many_connections(guarded: Guarded) -> None:
    """A17: Noise on a hundred connections at once leaves nothing behind."""
    with guarded.unharmed(1):
        peers = [guarded.dial() for _ in range(100)]
        for peer in peers:
            peer.sendall(os.urandom(100))
        for peer in peers:
            peer.close()


def test_method_in_other_letters(guarded: Guarded) -> None:
    """A14: The name of a method is its letters, upper and lower case."""
    with guarded.unharmed() as stub:
        code, _ = refusal(unary(stub.channel, f"{SERVICE}/modelinfer"), b"")
        assert code is grpc.StatusCode.UNIMPLEMENTED
