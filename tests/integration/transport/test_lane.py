"""What the lane of the native transport recognises, and how it is handed up."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from service.rpc.wire import length_delimited
from service.tensors import FP32
from service.transport.native import is_installed
from service.transport.seam import Code, Event, Kind
from tests.support.http2 import RawClient, framed
from tests.support.lane import (
    OTHER,
    STREAM,
    UNARY,
    LaneBench,
    bundles_of,
    contents_of,
    count_of,
    form_of,
    ids_of,
    lane_bench,
    message_of,
    rows_of,
)
from tests.support.requests import typed_request

pytestmark = pytest.mark.skipif(not is_installed(), reason="only the native transport has a lane")

RAW = 0x3A


@pytest.fixture
def bench() -> Iterator[LaneBench]:
    """Run a transport that was taught one form of request."""
    with lane_bench() as made:
        made.learn(message_of(0))
        yield made


def plain(events: list[Event]) -> list[tuple[Kind, bytes]]:
    """Return kind and message of the events of single requests."""
    return [
        (event.kind, event.message)
        for event in events
        if event.kind in (Kind.REQUEST, Kind.MESSAGE)
    ]


def test_requests_lie_side_by_side(bench: LaneBench) -> None:
    """Unary calls and messages of streams come in one bundle, in order, with their contents."""
    messages = [message_of(value) for value in range(5)]
    bench.requests(*messages[:2])
    bench.stream(*messages[2:4])
    bench.request(messages[4])
    bundle = bench.bundle(5)
    assert bundle.plan == "plan"
    assert bundle.input(0) == b"".join(map(contents_of, messages))
    assert [(call.method, ticket) for call, ticket, _ in bundle.members()] == [
        (UNARY, 0), (UNARY, 0), (STREAM, 0), (STREAM, 1), (UNARY, 0),
    ]  # fmt: skip
    assert bundle.waiting == 5
    assert bundle.deadlines is None


def test_nothing_is_bundled_before_it_is_learned() -> None:
    """A lane that was taught nothing hands up each request as it is."""
    with lane_bench() as bench:
        bench.request(message_of(1))
        (event,) = bench.take(len)
        assert (event.kind, event.message) == (Kind.REQUEST, message_of(1))
        bench.learn(message_of(0))
        bench.request(message_of(2))
        assert bench.bundle(1).input(0) == contents_of(message_of(2))


def test_other_methods_are_not_on_the_lane(bench: LaneBench) -> None:
    """A method that the lane was not made for takes the same bytes as they are."""
    bench.request(message_of(1), OTHER)
    (event,) = bench.take(len)
    assert (event.kind, event.call.method) == (Kind.REQUEST, OTHER)


def test_ids_are_kept_apart(bench: LaneBench) -> None:
    """Each request has its own id: none, of any characters, and of up to 1024 bytes."""
    ids = ["", "7", "größer \u4e2d\U0001f600", "x" * 1024, "\0"]
    bench.requests(*(message_of(1, request_id=request_id) for request_id in ids))
    assert ids_of(bench.bundle(len(ids))) == ids


def test_several_inputs_and_rows() -> None:
    """Each input is a block of its own, with all rows of a request together."""
    messages = [message_of(value, -value, 0.5, rows=3) for value in range(4)]
    with lane_bench() as bench:
        bench.learn(messages[0], rows=3)
        bench.requests(*messages)
        bundle = bench.bundle(4)
        for index in range(3):
            expected = b"".join(contents_of(message, index) for message in messages)
            assert bundle.input(index) == expected
        assert bundle.input(3) == b""


@pytest.mark.parametrize(
    ("rows", "max_rows", "expected"), [(1, 3, [3, 3, 1]), (3, 8, [2, 2, 2, 1]), (1, 1, [1] * 7)]
)
def test_a_bundle_fits_into_a_batch(rows: int, max_rows: int, expected: list[int]) -> None:
    """A bundle has at most the rows of the largest batch; further requests begin another one."""
    messages = [message_of(value, rows=rows) for value in range(7)]
    with lane_bench() as bench:
        bench.learn(messages[0], rows=rows, max_rows=max_rows)
        bench.requests(*messages)
        bundles = bench.bundles(7)
        assert [bundle.count for bundle in bundles] == expected
        assert b"".join(bundle.input(0) for bundle in bundles) == b"".join(
            map(contents_of, messages)
        )


def test_forms_are_kept_apart(bench: LaneBench) -> None:
    """Requests of two forms come in two bundles, each with what was taught with its form."""
    bench.learn(message_of(0, model="other"), plan="another plan")
    for value in range(3):
        bench.request(message_of(value))
        bench.request(message_of(value, model="other"))
    bundles = bench.bundles(6)
    assert [(bundle.plan, bundle.count) for bundle in bundles] == [
        ("plan", 3), ("another plan", 3),
    ]  # fmt: skip


def test_the_last_lesson_counts(bench: LaneBench) -> None:
    """A form that is taught again comes with the newest plan."""
    bench.learn(message_of(0), plan="newer", max_rows=1)
    bench.requests(message_of(1), message_of(2))
    assert [bundle.plan for bundle in bench.bundles(2)] == ["newer", "newer"]


def test_requests_with_a_deadline_are_apart(bench: LaneBench) -> None:
    """Of a bundle all requests have a deadline or none; it tells the first and the last."""
    sent = time.monotonic()
    for seconds in (None, 50, None, 20, 90):
        headers = {} if seconds is None else {"grpc_timeout": b"%dS" % seconds}
        bench.request(message_of(seconds or 0), **headers)
    without, with_one = bench.bundles(5)
    assert (without.count, without.deadlines) == (2, None)
    assert with_one.count == 3
    assert with_one.deadlines is not None
    first, last = with_one.deadlines
    assert 20 <= first - sent < 45
    assert last - first == pytest.approx(70, abs=1)


def _parts() -> tuple[bytes, bytes]:
    message = message_of(1)
    return form_of(message)[0], length_delimited(7, contents_of(message))


def _reversed() -> bytes:
    head, raw = _parts()
    return raw + head


def _with_long_length() -> bytes:
    head, raw = _parts()
    return head + bytes([RAW, raw[1] | 0x80, 0]) + raw[2:]


def _with_long_head_length() -> bytes:
    head, raw = _parts()
    return head[:1] + bytes([head[1] | 0x80, 0]) + head[2:] + raw


UNKNOWN: dict[str, Callable[[], bytes]] = {
    "another shape": lambda: message_of(1, rows=2),
    "another model": lambda: message_of(1, model="n"),
    "fewer bytes": lambda: _parts()[0] + length_delimited(7, b"abc"),
    "more bytes": lambda: _parts()[0] + length_delimited(7, b"abcde"),
    "no bytes": lambda: _parts()[0] + length_delimited(7, b""),
    "two contents": lambda: b"".join(_parts()) + _parts()[1],
    "no contents": lambda: _parts()[0],
    "typed contents": lambda: typed_request(
        "m", {"X0": (FP32, np.ones((1, 1), np.float32))}
    ).SerializeToString(),
    "nothing": lambda: b"",
    "contents first": _reversed,
    "id behind the contents": lambda: b"".join(_parts()) + length_delimited(3, b"7"),
    "two ids": lambda: length_delimited(3, b"7") * 2 + b"".join(_parts()),
    "id in front of the name": lambda: length_delimited(3, b"7") + b"".join(_parts()),
    "a field that is not known": lambda: b"".join(_parts()) + length_delimited(15, b"?"),
    "a parameter": lambda: message_of(1)[:3] + length_delimited(4, b"") + message_of(1)[3:],
    "a length with a byte too much": _with_long_length,
    "a name's length with a byte too much": _with_long_head_length,
    "cut off": lambda: message_of(1)[:-1],
    "an id that is no text": lambda: message_of(1)[:3] + b"\x1a\x01\xff" + message_of(1)[3:],
    "an id of 1025 bytes": lambda: message_of(1, request_id="x" * 1025),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_what_is_not_known_comes_as_it_is(bench: LaneBench, what: str) -> None:
    """A message that differs in any way is handed up by itself, next to those that are known."""
    message = UNKNOWN[what]()
    bench.requests(message_of(1), message, message_of(2))
    bench.stream(message, message_of(3))
    came = bench.take(lambda came: count_of(came) == 3 and len(plain(came)) == 2)
    assert plain(came) == [(Kind.REQUEST, message), (Kind.MESSAGE, message)]
    assert [event.ticket for event in came if event.kind is Kind.MESSAGE] == [0]
    (bundle,) = bundles_of(came)
    assert [ticket for _, ticket, _ in bundle.members()] == [0, 0, 1]


def test_a_stream_ends_behind_its_bundle(bench: LaneBench) -> None:
    """A stream is opened in front of its messages and half-closed behind them."""
    bench.stream(message_of(1), b"unknown", message_of(2), ends=True)
    came = bench.take(lambda came: came and came[-1].kind is Kind.HALF_CLOSED)
    kinds = [event.kind for event in came]
    assert kinds == [Kind.OPENED, Kind.MESSAGE, Kind.BUNDLE, Kind.HALF_CLOSED]
    assert [(event.ticket, event.message) for event in came[1:2]] == [(1, b"unknown")]
    (bundle,) = bundles_of(came)
    assert [(call, ticket) for call, ticket, _ in bundle.members()] == [
        (came[0].call, 0), (came[0].call, 2),
    ]  # fmt: skip


def test_what_is_forgotten_comes_as_it_is(bench: LaneBench) -> None:
    """After `forget` requests are judged again; a bundle from before stays as it is."""
    bench.request(message_of(1))
    bundle = bench.bundle(1)
    bench.lane.forget()
    bench.request(message_of(2))
    (event,) = bench.take(len)
    assert (event.kind, event.message) == (Kind.REQUEST, message_of(2))
    assert (bundle.count, bundle.plan) == (1, "plan")
    assert bundle.input(0) == contents_of(message_of(1))


@pytest.mark.parametrize("takes_gzip", [False, True])
def test_calls_whose_answers_are_compressed_are_not_bundled(*, takes_gzip: bool) -> None:
    """The lane writes answers as they are, so it leaves alone whose peer is to get gzip."""
    with lane_bench(compress_replies=True) as bench:
        bench.learn(message_of(0))
        headers = {"grpc_accept_encoding": b"gzip"} if takes_gzip else {}
        bench.request(message_of(1), **headers)
        (event,) = bench.take(len)
        assert event.kind is (Kind.REQUEST if takes_gzip else Kind.BUNDLE)


def test_connections_share_a_bundle(bench: LaneBench) -> None:
    """Requests of several connections that are there at once are bundled together."""
    with RawClient(bench.address) as other:
        bench.take(lambda _came: bench.transport.counters()["connections"] == 2)
        bench.request(message_of(1))
        other.send(other.open(UNARY.encode()), framed(message_of(2)))
        bundles = bench.bundles(2)
        rows = [row for bundle in bundles for row in rows_of(bundle)]
        assert sorted(rows) == sorted(contents_of(message_of(value)) for value in (1, 2))


def test_a_burst_is_taken_as_far_as_is_wanted(bench: LaneBench) -> None:
    """With room for few events the others come with the next call, none twice."""
    bench.requests(*map(message_of, range(5)))
    seen: list[bytes] = []
    while len(seen) < 5:
        for event in bench.transport.take(2, 1.0):
            assert event.bundle is not None
            assert event.bundle.count <= 2
            seen += rows_of(event.bundle)
    assert seen == [contents_of(message_of(value)) for value in range(5)]


def test_threads_for_the_network_change_nothing() -> None:
    """With a thread of its own for the network the lane recognises the same."""
    with lane_bench(workers=1) as bench:
        bench.learn(message_of(0))
        messages = [message_of(value, request_id=str(value)) for value in range(9)]
        streams = bench.requests(*messages[:6])
        streams.append(bench.stream(*messages[6:], ends=True))
        bundles = bench.bundles(9)
        for bundle in bundles:
            bundle.answer(b"", [bundle.input(0)])
        bench.take(lambda _came: any(e.kind is Kind.HALF_CLOSED for e in bench.events))
        (opened,) = (event.call for event in bench.events if event.kind is Kind.OPENED)
        opened.finish_answered(Code.OK)
        answers = bench.answers(*streams)
        assert [answers[stream].grpc_status for stream in streams] == [0] * 7
        for message, stream in zip(messages, streams[:6], strict=False):
            assert answers[stream].body.endswith(contents_of(message))
