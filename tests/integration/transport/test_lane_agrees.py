"""The lane recognises in Rust what the plans of the engine recognise in Python."""

from collections.abc import Iterator

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.rpc.plan import cut_message
from service.rpc.wire import length_delimited
from service.transport.native import is_installed
from service.transport.seam import Kind
from tests.support.lane import STREAM, LaneBench, form_of, ids_of, lane_bench, message_of
from tests.support.stub import Outgoing, stream
from tests.support.waiting import WAIT_S

pytestmark = pytest.mark.skipif(not is_installed(), reason="only the native transport has a lane")

GOOD = message_of(1, 2)
HEAD = form_of(GOOD)[0]
RAWS = [length_delimited(7, bytes(4)), length_delimited(7, bytes(8))]
IDS = [
    length_delimited(3, b"id"),
    length_delimited(3, b""),
    length_delimited(3, b"\xff"),
    length_delimited(3, b"x" * 1024),
    length_delimited(3, b"x" * 1025),
    b"\x1a\x82\x00id",  # its length with a byte too much
]
OTHERS = [
    length_delimited(1, b"m"),
    length_delimited(2, b"2"),
    length_delimited(7, bytes(8)),
    b"\x3a\x84\x00abcd",
    length_delimited(9, b"of a newer protocol"),
]


@st.composite
def rearranged(draw: st.DrawFn) -> bytes:
    """Draw the fields of the learned form with ids anywhere, and perhaps with another field."""
    fields = [HEAD[:3], HEAD[3:], *RAWS]
    for pieces, most in ((IDS, 2), (OTHERS, 1)):
        for piece in draw(st.lists(st.sampled_from(pieces), max_size=most)):
            fields.insert(draw(st.integers(0, len(fields))), piece)
    return b"".join(fields)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a request of the learned form in which a few bytes are others."""
    request_id = draw(st.text(max_size=3))
    message = bytearray(message_of(draw(st.integers(0, 9)), 2, request_id=request_id))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(message) - 1))
        if draw(st.booleans()):
            message[at] = draw(st.integers(0, 255))
        else:
            message[at:at] = draw(st.binary(max_size=3))
    return bytes(message)


@pytest.fixture
def bench() -> Iterator[LaneBench]:
    """Run a transport that was taught one form of request with two inputs."""
    with lane_bench() as made:
        made.learn(GOOD)
        yield made


def recognised(message: bytes) -> tuple[str, list[bytes]] | None:
    """Return id and contents if Python takes a message for the form that was learned.

    Lengths that are longer than they need be are left to Python alone.
    """
    head, sizes = form_of(GOOD)
    cut = cut_message(message)
    if cut is None or cut.head != head or len(cut.request_id) > 1024:
        return None
    contents = [message[start:end] for start, end in cut.raws]
    if [len(one) for one in contents] != sizes:
        return None
    if not message.endswith(b"".join(length_delimited(7, one) for one in contents)):
        return None
    try:
        return cut.request_id.decode(), contents
    except UnicodeDecodeError:
        return None


def test_both_recognise_the_same(bench: LaneBench) -> None:
    """Whatever the bytes, both find the same id and contents, or both find nothing."""
    with grpc.insecure_channel(bench.address) as channel:
        outgoing = Outgoing()
        replies = stream(channel, STREAM)(iter(outgoing), timeout=WAIT_S)
        found: list[bool] = []

        @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(st.one_of(rearranged(), damaged()))
        def check(message: bytes) -> None:
            outgoing.send(message)
            *_, event = bench.take(lambda came: came and came[-1].kind is not Kind.OPENED)
            expected = recognised(message)
            found.append(expected is not None)
            bundle = event.bundle
            if bundle is None:
                event.call.answer(event.ticket, b"")
                assert (event.message, expected) == (message, None)
                return
            (request_id,) = ids_of(bundle)
            contents = [bundle.input(index) for index in range(2)]
            bundle.answer(b"", [])
            assert (request_id, contents) == expected

        check()
        assert 20 < sum(found) < len(found) - 20
        replies.cancel()
