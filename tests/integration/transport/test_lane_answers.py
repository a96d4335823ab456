"""How bundles of the native transport are answered, and what becomes of callers who leave."""

import gc
import weakref
from collections.abc import Iterator, Sequence

import pytest

from service.rpc.wire import length_delimited
from service.transport.native import is_installed
from service.transport.seam import Bundle, Call, Code, Event, Kind, Limits
from tests.support.http2 import RawClient, framed
from tests.support.lane import (
    STREAM,
    TRAILERS,
    UNARY,
    LaneBench,
    contents_of,
    ids_of,
    lane_bench,
    message_of,
    rows_of,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(not is_installed(), reason="only the native transport has a lane")

FIXED, TAIL = length_delimited(1, b"model"), length_delimited(4, b"tail")


@pytest.fixture
def bench() -> Iterator[LaneBench]:
    """Run a transport that was taught one form of request."""
    with lane_bench() as made:
        made.learn(message_of(0))
        yield made


def body(request_id: str, *rows: bytes) -> bytes:
    """Return the answer to one request."""
    field = length_delimited(3, request_id.encode()) if request_id else b""
    return FIXED + field + b"".join(length_delimited(6, row) for row in rows)


def shrunk(events: Sequence[Event]) -> list[Bundle]:
    """Return the bundles that callers have left."""
    return [event.bundle for event in events if event.kind is Kind.SHRUNK and event.bundle]


def until_shrunk(bench: LaneBench) -> Bundle:
    """Take events until callers have left a bundle, and return it."""
    (only,) = shrunk(bench.take(shrunk))
    return only


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


def test_events_are_of_those_who_wait(bench: LaneBench) -> None:
    """A bundle that is turned back says nothing of callers who have left."""
    streams = bench.requests(*(message_of(value) for value in range(3)))
    bundle = bench.bundle(3)
    bench.client.reset(streams[1])
    until_shrunk(bench)
    assert [event.message for event in bundle.events()] == [message_of(0), message_of(2)]


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


def test_a_caller_who_resets_leaves_the_bundle(bench: LaneBench) -> None:
    """The bundle is told of; the contents stay until they are stripped, and then are gone."""
    streams = bench.requests(*(message_of(value, request_id=str(value)) for value in range(3)))
    bundle = bench.bundle(3)
    bundle.owner = owner = object()
    bench.client.reset(streams[1])
    told = until_shrunk(bench)
    assert told.owner is owner
    assert (bundle.count, bundle.waiting) == (3, 2)
    assert len(rows_of(bundle)) == 3
    assert bundle.strip() == bundle.count == told.count == 2
    assert rows_of(bundle) == [contents_of(message_of(0)), contents_of(message_of(2))]
    bundle.answer(FIXED, [b"02"])
    answers = bench.answers(streams[0], streams[2])
    assert answers[streams[0]].body == framed(body("0", b"0"))
    assert answers[streams[2]].body == framed(body("2", b"2"))
    assert [event for event in bench.events if event.kind is Kind.CANCELLED] == []


def test_who_leaves_unstripped_keeps_the_rows_in_place(bench: LaneBench) -> None:
    """Outputs for all are given to those who still wait, each its own."""
    streams = bench.requests(*map(message_of, range(3)))
    bundle = bench.bundle(3)
    bench.client.reset(streams[0])
    until_shrunk(bench)
    bundle.answer(FIXED, [b"abc"])
    answers = bench.answers(*streams[1:])
    assert answers[streams[1]].body == framed(body("", b"b"))
    assert answers[streams[2]].body == framed(body("", b"c"))


def test_a_bundle_is_told_of_once(bench: LaneBench) -> None:
    """Each time that callers have left a bundle it is handed up once, and others are not."""
    bench.learn(message_of(0), max_rows=2)
    streams = bench.requests(*map(message_of, range(4)))
    first, second = bench.bundles(4)
    first.owner, second.owner = "first", "second"
    bench.client.reset(streams[2])
    assert until_shrunk(bench).owner == "second"
    bench.client.reset(streams[0])
    bench.client.reset(streams[3])
    came = bench.take(lambda came: len(shrunk(came)) == 2)
    assert [bundle.owner for bundle in shrunk(came)] == ["first", "second"]
    assert (first.waiting, second.waiting) == (1, 0)
    assert list(bench.lane.shrunk()) == []


def test_a_caller_who_is_gone_before_anybody_looked(bench: LaneBench) -> None:
    """A request that was reset before it was taken is not handed up, or its bundle is told of."""
    streams = bench.requests(*map(message_of, range(3)))
    bench.client.reset(streams[1])
    bundle = bench.bundles(2)[0]
    assert bundle.strip() == 2
    assert rows_of(bundle) == [contents_of(message_of(0)), contents_of(message_of(2))]


def test_a_lost_connection_leaves_the_bundle(bench: LaneBench) -> None:
    """All requests of a connection that is lost have left; those of others stay."""
    with RawClient(bench.address) as other:
        other.send(other.open(UNARY.encode()), framed(message_of(9)))
        bench.requests(message_of(1), message_of(2))
        bundles = bench.bundles(3)
        bench.client.close()
        bench.take(lambda _came: sum(bundle.waiting for bundle in bundles) == 1)
        eventually(lambda: sum(bundle.strip() for bundle in bundles) == 1, "one is left")
        (left,) = (bundle for bundle in bundles if bundle.count)
        assert left.input(0) == contents_of(message_of(9))


def test_a_deadline_that_passes_leaves_the_bundle(bench: LaneBench) -> None:
    """A caller whose deadline has passed is told so by the transport, and the bundle shrinks."""
    late = bench.request(message_of(1), grpc_timeout=b"40m")
    bench.request(message_of(2), grpc_timeout=b"90S")
    bundle = bench.bundle(2)
    until_shrunk(bench)
    assert bundle.strip() == 1
    assert bundle.input(0) == contents_of(message_of(2))
    assert bench.answers(late)[late].grpc_status == Code.DEADLINE_EXCEEDED


def test_a_stream_that_is_reset_leaves_with_all_messages(bench: LaneBench) -> None:
    """The stream is cancelled, which is told of it once, and its messages leave the bundle."""
    stream = bench.stream(message_of(1), message_of(2))
    bench.requests(message_of(3))
    bundle = bench.bundle(3)
    bench.client.reset(stream)
    came = bench.take(shrunk)
    assert [event.kind for event in came] == [Kind.CANCELLED, Kind.SHRUNK]
    assert bundle.strip() == 1
    assert bundle.input(0) == contents_of(message_of(3))


def test_calls_that_the_engine_ends_leave_the_bundle(bench: LaneBench) -> None:
    """What was finished here is not handed up, but `shrunk` tells of it, once."""
    bench.stream(message_of(1), message_of(2))
    bench.requests(message_of(3))
    bundle = bench.bundle(3)
    bundle.owner = "owner"
    (opened,) = (event.call for event in bench.events if event.kind is Kind.OPENED)
    assert list(bench.lane.shrunk()) == []
    opened.finish(Code.INTERNAL, "an error ends it")
    assert [one.owner for one in bench.lane.shrunk()] == ["owner"]
    assert list(bench.lane.shrunk()) == []
    assert (bundle.waiting, bundle.strip()) == (1, 1)


def test_the_parts_of_a_split_bundle_are_told_of(bench: LaneBench) -> None:
    """A caller who leaves when his request was taken out of the bundle leaves that part."""
    streams = bench.requests(message_of(1), message_of(2))
    bundle = bench.bundle(2)
    parts = list(bundle.split())
    for at, part in enumerate(parts):
        part.owner = at
    bench.client.reset(streams[1])
    came = bench.take(lambda came: any(one.owner == 1 for one in shrunk(came)))
    assert [one.owner for one in shrunk(came) if one.count] == [1]
    assert [part.waiting for part in parts] == [1, 0]


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


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_call_that_was_left_is_let_go_of(bench: LaneBench, *, is_stream: bool) -> None:
    """Nothing is kept of a call whose bundle is asked for its members after the caller left."""

    class Context:
        """Lives as long as the call that it was put into."""

    stream = bench.stream(message_of(1)) if is_stream else bench.requests(message_of(1))[0]
    bundle = bench.bundle(1)
    bench.client.reset(stream)
    until_shrunk(bench)
    ((call, _, _),) = bundle.members()
    known = _put_context(call, Context())
    assert known() is not None
    del call
    list(bundle.events())
    bench.events.clear()
    gc.collect()
    assert known() is None


def _put_context(call: Call, context: object) -> "weakref.ref[object]":
    """Put something into a native call, which holds it for as long as it lives."""
    call.context = context  # type: ignore[attr-defined]
    return weakref.ref(context)
