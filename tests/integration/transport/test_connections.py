"""Limits of connections, on every transport: who is silent, idle, old, hasty or one too many."""

import socket
from contextlib import ExitStack

import grpc
import pytest

from service.transport.seam import Code, Kind, Limits
from tests.integration.transport.conftest import Run
from tests.integration.transport.test_calls import ping
from tests.support.engine import ECHO, HOLD, HOLD_STREAM, Engine
from tests.support.http2 import RawClient, frame, framed
from tests.support.stub import stream, unary
from tests.support.waiting import WAIT_S, eventually

CALM = 11  # ENHANCE_YOUR_CALM
EXHAUSTED = 8
PING = 6


def echoes(client: RawClient) -> bool:
    """Tell whether a call on this connection is answered."""
    called = client.open(ECHO.encode())
    client.send(called, framed(b"x"))
    return client.answer(called).body == framed(b"x")


def test_peer_that_does_not_answer_a_ping_is_dropped(run: Run) -> None:
    """A silent peer is pinged, and its calls are cancelled when it stays silent."""
    engine = run(limits=Limits(keepalive_time_s=0.5, keepalive_timeout_s=0.5))
    with RawClient(engine.address) as client:
        called = client.open(HOLD.encode())
        client.send(called, framed(b""))  # from here on, nothing is read and nothing said
        engine.wait_for(Kind.REQUEST)
        engine.wait_for(Kind.CANCELLED)


def test_peer_that_answers_pings_stays(run: Run) -> None:
    """A peer that says nothing but answers pings keeps its connection and its calls."""
    engine = run(limits=Limits(keepalive_time_s=0.5, keepalive_timeout_s=0.5))
    with grpc.insecure_channel(engine.address) as channel:
        future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
        (event,) = engine.wait_for(Kind.REQUEST)
        with RawClient(engine.address) as silent:  # is dropped after about a second
            assert echoes(silent)
            silent.read_to_end(WAIT_S)
        event.call.finish(Code.OK, reply=b"x")
        assert future.result() == b"x"


def test_peer_that_pings_too_often_is_dropped(run: Run) -> None:
    """The third hasty ping without a call in between closes the connection."""
    engine = run(limits=Limits(min_ping_interval_s=60))
    with RawClient(engine.address) as client:
        client.write(frame(PING, bytes(8)) * 10)
        assert client.read_to_end() in (CALM, None)


def test_pings_are_free_where_there_is_no_limit(run: Run) -> None:
    """Without an interval a peer may ping as it likes."""
    engine = run(limits=Limits(min_ping_interval_s=None))
    with RawClient(engine.address) as client:
        client.write(frame(PING, bytes(8)) * 100)
        assert echoes(client)


def test_idle_connection_is_told_to_go(run: Run) -> None:
    """A connection without calls is closed after its time; one with a call is not.

    Threaded: grpcio says INTERNAL_ERROR to a peer that does not even answer its ping, as here.
    """
    engine = run(limits=Limits(connection_idle_s=0.5, keepalive_timeout_s=0.5))
    with grpc.insecure_channel(engine.address) as channel:
        future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
        (event,) = engine.wait_for(Kind.REQUEST)
        with RawClient(engine.address) as idle:
            assert echoes(idle)
            assert idle.read_to_end(WAIT_S) in (0, 2)
        event.call.finish(Code.OK, reply=b"x")
        assert future.result() == b"x"
        ping(channel, 1)  # on a new connection, if need be


def test_old_connection_is_told_to_go_and_cut_off(run: Run) -> None:
    """A connection of the largest age ends, at the latest after its grace; others are opened."""
    engine = run(limits=Limits(connection_age_s=0.5, connection_age_grace_s=0.5))
    with grpc.insecure_channel(engine.address) as channel:
        future = unary(channel, HOLD).future(b"", timeout=WAIT_S)
        engine.wait_for(Kind.CANCELLED)
        assert isinstance(future.exception(), grpc.RpcError)
        ping(channel, 1)


def test_silent_handshake_is_cut_off(run: Run) -> None:
    """A peer that does not begin to speak HTTP/2 is hung up on."""
    engine = run(limits=Limits(handshake_timeout_s=0.3))
    host, _, port = engine.address.rpartition(":")
    with socket.create_connection((host, int(port)), WAIT_S) as peer:
        peer.sendall(b"PRI * HTT")
        while peer.recv(4096):
            pass


def test_connection_too_many_is_closed(run: Run) -> None:
    """Over the limit a connection is closed; when one leaves there is room again."""
    engine = run(limits=Limits(connections=2))
    with ExitStack() as stack:
        for _ in range(2):
            assert echoes(stack.enter_context(RawClient(engine.address)))
        with RawClient(engine.address) as third:
            called = third.open(ECHO.encode())
            third.send(called, framed(b""))
            assert third.answer(called).reset is not None
    eventually(lambda: _is_echoed(engine), "there is room again")


def test_streams_over_the_limit_are_refused(run: Run) -> None:
    """A peer that opens more streams than it may has the surplus refused by HTTP/2."""
    engine = run(limits=Limits(streams_per_connection=3))
    with RawClient(engine.address) as client:
        opened = [client.open(HOLD_STREAM.encode()) for _ in range(8)]
        refused = client.answers(*opened[3:])
        assert all(answer.reset is not None for answer in refused.values())
        assert len(engine.wait_for(Kind.OPENED, count=3)) == 3


def test_calls_over_the_limit_are_refused(run: Run) -> None:
    """Over the limit of all connections together a call is RESOURCE_EXHAUSTED, until one ends."""
    engine = run(limits=Limits(concurrent_calls=2))
    with grpc.insecure_channel(engine.address) as channel:
        held = [unary(channel, HOLD).future(b"", timeout=WAIT_S) for _ in range(2)]
        events = engine.wait_for(Kind.REQUEST, count=2)
        error = unary(channel, ECHO).future(b"", timeout=WAIT_S).exception()
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for event in events:
            event.call.finish(Code.OK, reply=b"")
        assert [future.result() for future in held] == [b"", b""]
        eventually(lambda: _is_echoed(engine), "there is room again")


@pytest.mark.parametrize(("size", "is_taken"), [(500, True), (3000, False), (50_000, False)])
def test_headers_over_the_limit_are_refused(run: Run, size: int, is_taken: bool) -> None:  # noqa: FBT001
    """A call whose headers are too large is RESOURCE_EXHAUSTED, and the connection goes on."""
    engine = run(limits=Limits(header_bytes=2000))
    with RawClient(engine.address) as client:
        assert echoes(client)
        called = client.open(ECHO.encode(), (b"key", b"v" * size))
        client.send(called, framed(b""))
        assert client.answer(called).grpc_status == (0 if is_taken else EXHAUSTED)
        assert echoes(client)


def test_send_tells_that_the_window_is_full(run: Run) -> None:
    """Whoever sends more than a peer takes is told, and can go on when it has been taken."""
    engine = run()
    with grpc.insecure_channel(engine.address) as channel:
        replies = stream(channel, HOLD_STREAM)(iter([b""]), timeout=WAIT_S)
        (event,) = engine.wait_for(Kind.HALF_CLOSED)
        sent = 1
        while event.call.send(bytes(256 << 10)):
            sent += 1
            assert sent < 1000, "send never says that there is no room"
        for _ in range(sent):
            next(replies)
        eventually(lambda: event.call.send(b"room again"), "there is room again")
        event.call.finish(Code.OK)
        assert b"room again" in list(replies)


def _is_echoed(engine: Engine) -> bool:
    with RawClient(engine.address) as client:
        called = client.open(ECHO.encode())
        client.send(called, framed(b""))
        return client.answer(called).grpc_status == 0
