"""How many requests a stream of the Python clients may have open, and who waits for room."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from service.client import AsyncClient, Client, MalformedAnswer, Unavailable, WindowFull
from tests.support.requests import x
from tests.support.servers import RunningServer
from tests.support.servicer import Answers, Refusal, Requests, part, serving
from tests.support.waiting import WAIT_S


def echo(requests: Requests) -> Answers:
    """Answer each request at once."""
    for request in requests:
        yield part(request.id, value=0)


def test_a_full_window_holds_the_sender_back() -> None:
    """The request behind the window is not sent before an answer was received."""
    arrived = threading.Semaphore(0)
    count = 0

    def answer(requests: Requests) -> Answers:
        nonlocal count
        for request in requests:
            count += 1
            yield part(request.id, value=0)
            arrived.release()

    with (
        serving(stream=answer) as address,
        Client(address) as client,
        client.open_stream("m", window=2) as stream,
        ThreadPoolExecutor(1) as pool,
    ):
        for _ in range(2):
            stream.send({})
            assert arrived.acquire(timeout=WAIT_S)
        third = pool.submit(stream.send, {})
        assert not third.done()
        assert count == 2
        assert stream.recv().index == 0
        assert third.result(WAIT_S) == 2


def test_a_window_that_nobody_empties_is_an_error() -> None:
    """A thread that sends and never receives is told after the deadline what is wrong."""
    with (
        serving(stream=echo) as address,
        Client(address, deadline=0.1) as client,
        client.open_stream("m", window=1) as stream,
    ):
        stream.send({})
        with pytest.raises(WindowFull, match=r"1 requests .* receive answers before sending"):
            stream.send({})
        assert stream.recv().index == 0
        assert stream.send({}) == 1

    async def main(address: str) -> None:
        async with (
            AsyncClient(address, deadline=0.1) as client,
            client.open_stream("m", window=1) as stream,
        ):
            await stream.send({})
            with pytest.raises(WindowFull):
                await stream.send({})

    with serving(stream=echo) as address:
        asyncio.run(main(address))


def test_a_broken_stream_wakes_up_who_waits_to_send() -> None:
    """A sender that waits for the window gets the error that ended the stream."""

    def answer(requests: Requests) -> Answers:
        next(requests)
        raise Refusal(grpc.StatusCode.UNAVAILABLE, "GRPC server is shutting down")

    with (
        serving(stream=answer) as address,
        Client(address) as client,
        client.open_stream("m", window=1) as stream,
    ):
        stream.send({})
        with pytest.raises(Unavailable, match="shutting down"):
            stream.send({})
        with pytest.raises(Unavailable, match="shutting down"):
            stream.recv()

    async def main(address: str) -> None:
        async with AsyncClient(address) as client, client.open_stream("m", window=1) as stream:
            await stream.send({})
            with pytest.raises(Unavailable, match="shutting down"):
                await stream.send({})
            with pytest.raises(Unavailable, match="shutting down"):
                await stream.recv()

    with serving(stream=answer) as address:
        asyncio.run(main(address))


def test_a_server_that_ends_the_stream_is_noticed_by_who_sends() -> None:
    """A stream that the server ended with OK takes no more requests, and says why."""
    with (
        serving(stream=lambda requests: iter([part(next(requests).id, value=1)])) as address,
        Client(address) as client,
        client.open_stream("m", window=1) as stream,
    ):
        stream.send({})
        assert stream.recv().index == 0
        with pytest.raises(EOFError):
            stream.recv()
        with pytest.raises(MalformedAnswer, match="the server ended the stream"):
            stream.send({})


def test_what_cannot_be_sent_takes_no_place_in_the_window(server: RunningServer) -> None:
    """A TypeError leaves window and indices as they were."""
    with (
        Client(server.address, deadline=5) as client,
        client.open_stream("identity_fp32", window=1) as stream,
    ):
        for _ in range(3):
            with pytest.raises(TypeError):
                stream.send({"X": np.ones(1, complex)})
        assert stream.send(x(1)) == 0
        assert stream.recv().result()["Y"].item() == 1


def test_only_the_last_answer_frees_the_window() -> None:
    """An answer that others follow leaves its request in the window."""

    def answer(requests: Requests) -> Answers:
        first = next(requests).id
        yield part(first, final=False, value=1)
        yield part(first, final=False, value=2)
        yield part(first, final=True)
        yield from echo(requests)

    with (
        serving(stream=answer) as address,
        Client(address, deadline=0.1) as client,
        client.open_stream("m", window=1, decoupled=True) as stream,
    ):
        stream.send({})
        for _ in range(2):
            assert not stream.recv().is_final
        with pytest.raises(WindowFull):
            stream.send({})
        assert stream.recv().is_final
        assert stream.send({}) == 1


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_nothing_is_refused(window: int) -> None:
    """A window has room for at least one request."""
    with (
        Client("127.0.0.1:1") as client,
        pytest.raises(ValueError, match=f"window is {window}, expected at least 1"),
    ):
        client.open_stream("m", window=window)
