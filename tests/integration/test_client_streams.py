"""Open streams of the Python clients: who sends, who receives, and how they end."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import numpy as np
import pytest

from service.client import (
    AsyncClient,
    AsyncStream,
    Cancelled,
    Client,
    DeadlineExceeded,
    RequestRefused,
    ServerUnreachable,
)
from service.tensors import Array
from tests.support.requests import x
from tests.support.servers import RunningServer
from tests.support.waiting import WAIT_S

_SLOW_STEPS = np.array([[1_000_000]], np.int64)  # minutes


def test_a_stream_goes_to_and_fro(server: RunningServer) -> None:
    """One thread sends and receives by turns; indices count, and the end is told."""
    with Client(server.address) as client, client.open_stream("identity_fp32") as stream:
        for number in range(5):
            assert stream.send(x(number)) == number
            answer = stream.recv()
            assert (answer.index, answer.result()["Y"].item()) == (number, number)
        stream.done_sending()
        with pytest.raises(EOFError):
            stream.recv()
        with pytest.raises(ValueError, match=r"after done_sending\(\)"):
            stream.send(x(0))


def test_one_thread_sends_while_another_receives(server: RunningServer) -> None:
    """A thousand requests through a window of four, sent and received on two threads."""
    with (
        Client(server.address) as client,
        client.open_stream("identity_fp32", window=4) as stream,
        ThreadPoolExecutor(1) as pool,
    ):
        received = pool.submit(lambda: [answer.result()["Y"].item() for answer in stream])
        for number in range(1000):
            stream.send(x(number))
        stream.done_sending()
        assert received.result(WAIT_S) == list(range(1000))


def test_async_tasks_send_and_receive(server: RunningServer) -> None:
    """A thousand requests through a window of four, sent and received in two tasks."""

    async def main() -> list[float]:
        async with (
            AsyncClient(server.address) as client,
            client.open_stream("identity_fp32", window=4) as stream,
        ):

            async def send() -> None:
                for number in range(1000):
                    assert await stream.send(x(number)) == number
                await stream.done_sending()

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                return [answer.result()["Y"].item() async for answer in stream]

    assert asyncio.run(main()) == list(range(1000))


def test_a_closed_stream_says_so(server: RunningServer) -> None:
    """After close() a recv is Cancelled and what waited at the server is freed."""
    with Client(server.address) as client:
        stream = client.open_stream("slow")
        stream.send({"X": _SLOW_STEPS})
        stream.close()
        with pytest.raises(Cancelled):
            stream.recv()


def test_a_closed_async_stream_says_so_to_who_waits(server: RunningServer) -> None:
    """A task that reads a stream which another one closes gets Cancelled: nobody cancelled it."""

    async def close(client: AsyncClient, stream: AsyncStream, *, closes_client: bool) -> None:
        await stream.send({"X": _SLOW_STEPS})
        reader = asyncio.create_task(stream.recv())
        while not await asyncio.to_thread(server.runs, "slow"):
            pass
        await (client.close() if closes_client else stream.close())
        with pytest.raises(Cancelled, match="was closed before the answer"):
            await reader
        with pytest.raises(Cancelled):
            await stream.recv()
        while await asyncio.to_thread(server.runs, "slow"):
            pass

    async def main() -> None:
        async with asyncio.timeout(WAIT_S), AsyncClient(server.address) as client:
            await close(client, client.open_stream("slow"), closes_client=False)
            await close(client, client.open_stream("slow"), closes_client=True)

    asyncio.run(main())


def test_a_stream_has_a_deadline(server: RunningServer) -> None:
    """Both clients end a stream whose request takes minutes at its deadline."""
    with (
        Client(server.address) as client,
        client.open_stream("slow", deadline=0.2) as stream,
    ):
        stream.send({"X": _SLOW_STEPS})
        # The server may say so first, for this request, or gRPC for the stream.
        with pytest.raises(DeadlineExceeded):
            stream.recv().result()

    async def main() -> None:
        async with (
            AsyncClient(server.address) as client,
            client.open_stream("slow", deadline=0.2) as stream,
        ):
            await stream.send({"X": _SLOW_STEPS})
            with pytest.raises(DeadlineExceeded):
                (await stream.recv()).result()

    asyncio.run(main())


def test_options_of_a_send_are_for_that_request(server: RunningServer) -> None:
    """What one send asks for differs from what the stream does, and is gone with it."""
    ones = np.ones((1, 16), np.int32)
    both = {"INPUT0": ones, "INPUT1": ones}
    with (
        Client(server.address) as client,
        client.open_stream("simple", outputs=["OUTPUT0"]) as stream,
    ):
        stream.send(both)
        stream.send(both, outputs=["OUTPUT1"])
        stream.send(both)
        names = [list(stream.recv().result()) for _ in range(3)]
    assert names == [["OUTPUT0"], ["OUTPUT1"], ["OUTPUT0"]]


def test_a_cancelled_reader_leaves_no_stream(server: RunningServer) -> None:
    """A task that is cancelled in a stream over an endless input cancels the stream's requests."""
    drawn = asyncio.Event()

    async def rows() -> AsyncIterator[dict[str, Array]]:
        yield {"X": _SLOW_STEPS}
        drawn.set()
        await asyncio.Event().wait()

    async def read(client: AsyncClient) -> None:
        async with aclosing(client.stream("slow", rows())) as stream:
            await anext(stream)

    async def main() -> None:
        async with asyncio.timeout(WAIT_S), AsyncClient(server.address) as client:
            task = asyncio.create_task(read(client))
            await drawn.wait()
            while not await asyncio.to_thread(server.runs, "slow"):
                pass
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while await asyncio.to_thread(server.runs, "slow"):
                pass
            while left := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(left)

    asyncio.run(main())


def test_nobody_at_the_address() -> None:
    """A stream to a port where nothing listens fails at its first recv, with the address."""
    with (
        Client("127.0.0.1:1") as client,
        client.open_stream("m") as stream,
        pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:1"),
    ):
        stream.recv()

    async def main() -> None:
        async with AsyncClient("127.0.0.1:1") as client, client.open_stream("m") as stream:
            with pytest.raises(RequestRefused):
                await stream.recv()

    with pytest.raises(ServerUnreachable):
        asyncio.run(main())
