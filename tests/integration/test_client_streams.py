"""Open streams of the Python clients, and models that give a request several answers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import grpc
import numpy as np
import pytest

from service.client import (
    AsyncClient,
    AsyncStream,
    Cancelled,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    MalformedAnswer,
    RequestRefused,
    ServerUnreachable,
    Unavailable,
    Unsupported,
    WindowFull,
)
from service.pb import grpc_service_pb2 as pb
from service.tensors import Array
from tests.support.servers import RunningServer
from tests.support.servicer import Refusal, part, serving
from tests.support.waiting import WAIT_S

_SLOW_STEPS = np.array([[1_000_000]], np.int64)  # minutes
Requests = Iterator[pb.ModelInferRequest]
Answers = Iterator[pb.ModelStreamInferResponse]


def x(value: float) -> dict[str, Array]:
    """Return an input for an identity model."""
    return {"X": np.full((1, 1), value, np.float32)}


def count_down(requests: Requests) -> Answers:
    """Answer as a decoupled model: n answers to a request of n, the end told where it is asked."""
    for request in requests:
        (raw,) = request.raw_input_contents
        for value in range(int(np.frombuffer(raw, np.float32)[0]), 0, -1):
            yield part(request.id, final=False, value=value)
        if request.parameters["triton_enable_empty_final_response"].bool_param:
            yield part(request.id, final=True)


def mixed(requests: Requests) -> Answers:
    """Take two requests and answer them by turns, the second one first."""
    first, second = next(requests).id, next(requests).id
    yield part(second, final=False, value=20)
    yield part(first, final=False, value=10)
    yield part(second, final=True, value=21)
    yield part(first, final=True)


def echo(requests: Requests) -> Answers:
    """Answer each request at once."""
    for request in requests:
        yield part(request.id, value=0)


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


def test_many_answers_to_one_request() -> None:
    """infer_many yields every answer of a decoupled model, and stops where it stops."""
    with serving(stream=count_down) as address, Client(address) as client:
        values = [out["Y"].item() for out in client.infer_many("m", x(3))]
        assert values == [3, 2, 1]
        assert list(client.infer_many("m", x(0))) == []

    async def main(address: str) -> list[float]:
        async with AsyncClient(address) as client:
            return [out["Y"].item() async for out in client.infer_many("m", x(3))]

    with serving(stream=count_down) as address:
        assert asyncio.run(main(address)) == [3, 2, 1]


def test_answers_of_several_requests_mix() -> None:
    """A decoupled stream says of each answer whose it is and whether it is the last."""
    with serving(stream=mixed) as address, Client(address) as client:
        answers = list(client.stream("m", [{}, {}], decoupled=True))
    assert [(each.index, each.is_final, len(each.outputs)) for each in answers] == [
        (1, False, 1), (0, False, 1), (1, True, 1), (0, True, 0),
    ]  # fmt: skip


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


def test_a_decoupled_model_needs_to_be_asked_as_one() -> None:
    """A second answer where one is due is an error that names the remedy."""
    with (
        serving(stream=count_down) as address,
        Client(address) as client,
        pytest.raises(Unsupported, match=r"use infer_many\(\)"),
    ):
        list(client.stream("m", [x(2)]))


def test_a_failed_request_of_many_answers_raises() -> None:
    """An error ends the answers of infer_many after those that came before it."""

    def answer(requests: Requests) -> Answers:
        request = next(requests)
        yield part(request.id, final=False, value=1)
        yield part(request.id, final=True, error="[request id: 0] no more")

    with serving(stream=answer) as address, Client(address) as client:
        many = client.infer_many("m", {})
        assert next(many)["Y"].item() == 1
        with pytest.raises(InvalidArgument, match="no more"):
            next(many)


@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "asyncio"])
def test_leaving_the_answers_early_cancels_the_request(*, is_async: bool) -> None:
    """A reader who takes one answer of an endless request makes the server stop."""
    stopped = threading.Event()

    def endless(requests: Requests) -> Answers:
        request = next(requests)
        try:
            while True:
                yield part(request.id, final=False, value=1)
        finally:
            stopped.set()

    async def main(address: str) -> None:
        async with AsyncClient(address) as client, aclosing(client.infer_many("m", {})) as many:
            await anext(many)

    with serving(stream=endless) as address:
        if is_async:
            asyncio.run(main(address))
        else:
            with Client(address) as client:
                many = client.infer_many("m", {})
                next(many)
                many.close()
        assert stopped.wait(WAIT_S)


def test_a_slow_reader_holds_the_server_back() -> None:
    """Answers that nobody takes stay at the server, but for what gRPC reads ahead."""
    given = 0

    def endless(requests: Requests) -> Answers:
        nonlocal given
        request = next(requests)
        response = pb.ModelInferResponse(id=request.id)
        response.parameters["triton_final_response"].bool_param = False
        response.outputs.add(name="Y", datatype="UINT8", shape=[1 << 20])
        response.raw_output_contents.append(bytes(1 << 20))
        message = pb.ModelStreamInferResponse(infer_response=response)
        while given < 200:
            given += 1
            yield message

    with serving(stream=endless) as address, Client(address) as client:
        many = client.infer_many("m", {})
        for _ in range(3):
            next(many)
        client_is_behind = given < 100
        many.close()
    assert client_is_behind


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


@pytest.mark.parametrize("window", [0, -1])
def test_a_window_of_nothing_is_refused(window: int) -> None:
    """A window has room for at least one request."""
    with (
        Client("127.0.0.1:1") as client,
        pytest.raises(ValueError, match=f"window is {window}, expected at least 1"),
    ):
        client.open_stream("m", window=window)
