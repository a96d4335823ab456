"""How the lane of the native transport tells of callers who leave bundles."""

import gc
import weakref
from collections.abc import Iterator, Sequence

import pytest

from service.transport.native import is_installed
from service.transport.seam import Bundle, Call, Code, Event, Kind
from tests.support.http2 import RawClient, framed
from tests.support.lane import (
    FIXED,
    UNARY,
    LaneBench,
    body,
    contents_of,
    lane_bench,
    message_of,
    rows_of,
)
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(not is_installed(), reason="only the native transport has a lane")


@pytest.fixture
def bench() -> Iterator[LaneBench]:
    """Run a transport that was taught one form of request."""
    with lane_bench() as made:
        made.learn(message_of(0))
        yield made


def shrunk(events: Sequence[Event]) -> list[Bundle]:
    """Return the bundles that callers have left."""
    return [event.bundle for event in events if event.kind is Kind.SHRUNK and event.bundle]


def until_shrunk(bench: LaneBench) -> Bundle:
    """Take events until callers have left a bundle, and return it."""
    (only,) = shrunk(bench.take(shrunk))
    return only


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


def test_events_are_of_those_who_wait(bench: LaneBench) -> None:
    """A bundle that is turned back says nothing of callers who have left."""
    streams = bench.requests(*(message_of(value) for value in range(3)))
    bundle = bench.bundle(3)
    bench.client.reset(streams[1])
    until_shrunk(bench)
    assert [event.message for event in bundle.events()] == [message_of(0), message_of(2)]


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
