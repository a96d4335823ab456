"""How bundles of the native transport are answered, and what becomes of callers who leave."""

import weakref
from collections.abc import Iterator

import pytest

from service.rpc.wire import length_delimited
from service.transport.native import is_installed
from service.transport.seam import Bundle, Code, Kind, Limits
from tests.support.http2 import framed
from tests.support.lane import (
    FIXED,
    STREAM,
    TAIL,
    TRAILERS,
    UNARY,
    LaneBench,
    body,
    contents_of,
    ids_of,
    lane_bench,
    message_of,
)

pytestmark = pytest.mark.skipif(not is_installed(), reason="only the native transport has a lane")


@pytest.fixture
def bench() -> Iterator[LaneBench]:
    """Run a transport that was taught one form of request."""
    with lane_bench() as made:
        made.learn(message_of(0))
        yield made


def test_unary_answers(bench: LaneBench) -> None:
    """Each call gets the fixed fields, its id, its rows of every output, and the trailers."""
    streams = bench.requests(*(message_of(1, request_id=one) for one in ("a", "", "é" * 100)))
    bundle = bench.bundle(3)
    large = bytes(range(3)) * 100_000  # of which each gets a third
    bundle.answer(FIXED, [b"abcdef", large, b""], tail=TAIL, trailers=(7, 1 << 40))
    assert bundle.count == bundle.waiting == bundle.strip() == 0
    answers = bench.answers(*streams)
    for at, (stream, request_id) in enumerate(zip(streams, ("a", "", "é" * 100), strict=True)):
        answer = answers[stream]
        rows = b"abcdef"[at * 2 : at * 2 + 2], large[at * 100_000 : (at + 1) * 100_000], b""
        assert answer.body == framed(body(request_id, *rows))
        assert answer.grpc_status == 0
        told = [answer.headers[name.encode()] for name in TRAILERS]
        assert told == [b"7", b"%d" % (1 << 40)]


def test_answers_on_a_stream(bench: LaneBench) -> None:
    """Answers come in an envelope, in the order of the messages, and end with the tail."""
    stream = bench.stream(message_of(1, request_id="a"), b"unknown", message_of(2), ends=True)
    bundle = bench.bundle(2)
    (opened,) = (event.call for event in bench.events if event.kind is Kind.OPENED)
    bundle.answer(FIXED, [b"abcdef"], tail=TAIL, trailers=(7, 8))
    opened.finish_answered(Code.OK)
    opened.answer(1, b"in between")
    answer = bench.answers(stream)[stream]
    assert answer.body == b"".join(
        [
            framed(length_delimited(2, body("a", b"abc") + TAIL)),
            framed(b"in between"),
            framed(length_delimited(2, body("", b"def") + TAIL)),
        ]
    )
    assert answer.grpc_status == 0
    assert TRAILERS[0].encode() not in answer.headers


def test_an_answer_settles_its_message() -> None:
    """As many messages of a stream come in as its window has, and more when they are answered."""
    with lane_bench(limits=Limits(stream_window=4)) as bench:
        bench.learn(message_of(0))
        bench.stream(*map(message_of, range(10)))
        for count in (4, 4, 2):
            bench.bundle(count).answer(b"", [bytes(count)])


def test_an_answer_to_nobody(bench: LaneBench) -> None:
    """A bundle that is answered twice, or was taken apart, answers nobody."""
    (stream,) = bench.requests(message_of(1))
    bundle = bench.bundle(1)
    bundle.answer(FIXED, [b"first"])
    bundle.answer(FIXED, [b"second"])
    assert bench.answers(stream)[stream].body == framed(body("", b"first"))
    assert bundle.input(0) == b""
    assert not [*bundle.members(), *bundle.split(), *bundle.events()]
    assert bundle.deadlines is None


def test_contents_that_were_copied_can_be_let_go_of(bench: LaneBench) -> None:
    """A bundle without contents is split and answered like before, each by its own id."""
    large = "x" * 1024
    streams = bench.requests(*(message_of(1, request_id=one) for one in ("a", "", large)))
    bundle = bench.bundle(3)
    bundle.owner = "owner"
    bundle.release()
    assert (bundle.count, bundle.waiting, bundle.owner) == (3, 3, "owner")
    assert ids_of(bundle) == ["a", "", large]
    for part, row in zip(bundle.split(), (b"1", b"2", b"3"), strict=True):
        part.answer(FIXED, [row])
    answers = bench.answers(*streams)
    assert [answers[stream].body for stream in streams] == [
        framed(body("a", b"1")), framed(body("", b"2")), framed(body(large, b"3")),
    ]  # fmt: skip


def test_a_bundle_can_be_emptied(bench: LaneBench) -> None:
    """An emptied bundle has no requests and no owner; the calls are for who has them to answer."""
    (stream,) = bench.requests(message_of(1))
    bundle = bench.bundle(1)
    bundle.owner = "owner"
    ((call, _, _),) = bundle.members()
    bundle.clear()
    assert (bundle.count, bundle.owner) == (0, None)
    bundle.answer(FIXED, [b"nobody"])
    call.finish(Code.OK, reply=b"reply")
    assert bench.answers(stream)[stream].body == framed(b"reply")


def test_members_can_be_answered_one_by_one(bench: LaneBench) -> None:
    """The calls of a bundle are calls like others, to be refused for instance."""
    streams = bench.requests(message_of(1), message_of(2))
    bundle = bench.bundle(2)
    for at, (call, _, _) in enumerate(bundle.members()):
        call.finish(Code.UNAVAILABLE, f"no {at}")
    answers = bench.answers(*streams)
    assert [answers[stream].headers[b"grpc-message"] for stream in streams] == [b"no 0", b"no 1"]


def test_events_keep_everything(bench: LaneBench) -> None:
    """A bundle that is turned back becomes the events that would have come without a lane."""
    first, last = message_of(1, request_id="a"), message_of(3)
    (unary,) = bench.requests(first)
    bench.stream(b"unknown", message_of(2), last)
    bundle = bench.bundle(3)
    (opened,) = (event.call for event in bench.events if event.kind is Kind.OPENED)
    events = list(bundle.events())
    assert bundle.count == 0
    assert [(event.kind, event.message, event.ticket) for event in events] == [
        (Kind.REQUEST, first, 0), (Kind.MESSAGE, message_of(2), 1), (Kind.MESSAGE, last, 2),
    ]  # fmt: skip
    assert [event.call.method for event in events] == [UNARY, STREAM, STREAM]
    assert [event.call for event in events[1:]] == [opened, opened]
    assert all(event.bundle is None for event in events)
    events[0].call.finish(Code.OK, reply=b"reply")
    assert bench.answers(unary)[unary].body == framed(b"reply")


def test_a_split_bundle_keeps_everything(bench: LaneBench) -> None:
    """Bundles of one have the plan, contents, id, ticket and deadline of their request."""
    streams = [
        bench.request(message_of(1, request_id="a"), grpc_timeout=b"50S"),
        bench.stream(message_of(2), message_of(3, request_id="c"), ends=True, grpc_timeout=b"90S"),
    ]
    bundle = bench.bundle(3)
    deadlines = bundle.deadlines
    assert deadlines is not None
    bundle.owner = "whoever"
    parts = list(bundle.split())
    assert (bundle.count, bundle.owner) == (0, None)
    assert [part.count for part in parts] == [1, 1, 1]
    assert {part.plan for part in parts} == {"plan"}
    assert [part.input(0) for part in parts] == [contents_of(message_of(at)) for at in (1, 2, 3)]
    assert [ids_of(part) for part in parts] == [["a"], [""], ["c"]]
    assert [part.members()[0][1] for part in parts] == [0, 0, 1]
    assert parts[0].deadlines == (deadlines[0], deadlines[0])
    assert parts[2].deadlines == (deadlines[1], deadlines[1])
    for part, row in reversed(list(zip(parts, (b"1", b"2", b"3"), strict=True))):
        part.answer(FIXED, [row])
    (opened,) = (event.call for event in bench.events if event.kind is Kind.OPENED)
    opened.finish_answered(Code.OK)
    answers = bench.answers(*streams)
    assert answers[streams[0]].body == framed(body("a", b"1"))
    assert answers[streams[1]].body == b"".join(
        framed(length_delimited(2, body(one, row))) for one, row in (("", b"2"), ("c", b"3"))
    )


def test_an_owner_is_let_go_of(bench: LaneBench) -> None:
    """What the engine keeps with a bundle, which refers to it, goes when it is answered."""

    class Owner:
        bundle: Bundle

    bench.requests(message_of(1))
    bundle = bench.bundle(1)
    bundle.owner = owner = Owner()
    owner.bundle = bundle
    known = weakref.ref(owner)
    del owner
    assert known() is not None
    bundle.answer(b"", [b""])
    assert bundle.owner is None
    assert known() is None
