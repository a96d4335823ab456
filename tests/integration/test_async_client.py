"""The asyncio client, against a real server and against ones that break the protocol."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest

from service.client import (
    AsyncClient,
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    MalformedAnswer,
    NotFound,
    ServerUnreachable,
)
from service.pb import grpc_service_pb2 as pb
from service.tensors import BF16, DATATYPES, Array, Datatype
from tests.support import models
from tests.support.servers import RunningServer
from tests.support.servicer import serving
from tests.support.waiting import WAIT_S

R = TypeVar("R")
_ROW = np.ones((1, 784), np.float32)
_SLOW_STEPS = np.array([[1_000_000]], np.int64)  # minutes


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine to its end; every task that is left of it ends by itself, or time is up."""

    async def checked() -> R:
        async with asyncio.timeout(WAIT_S):
            result = await main
            while left := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(left)  # gRPC's own, which see the end of a call
            return result

    return asyncio.run(checked())


@pytest.mark.parametrize("datatype", DATATYPES, ids=str)
def test_each_datatype_comes_back_as_it_was_sent(server: RunningServer, datatype: Datatype) -> None:
    """An array of every datatype returns with the same type, shape and values."""
    array = models.sample(np.random.default_rng(1), datatype, (3, 5))

    async def main() -> Array:
        async with AsyncClient(server.address) as client:
            return (await client.infer(f"identity_{datatype.wire.lower()}", {"X": array}))["Y"]

    got = run(main())
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


def test_many_calls_run_at_once_on_one_client(server: RunningServer) -> None:
    """A hundred calls in flight are answered with their own values."""

    async def main() -> list[float]:
        async with AsyncClient(server.address) as client:
            answers = await asyncio.gather(*(
                client.infer("identity_fp32", {"X": np.full((1, 1), number, np.float32)})
                for number in range(100)
            ))  # fmt: skip
            return [answer["Y"].item() for answer in answers]

    assert run(main()) == list(range(100))


def test_a_client_may_be_made_where_no_loop_runs(server: RunningServer) -> None:
    """A client that is made outside of asyncio belongs to the loop of its first call."""
    client = AsyncClient(server.address)

    async def main() -> bool:
        async with client:
            return await client.is_ready()

    assert run(main())


def test_the_server_describes_itself(server: RunningServer) -> None:
    """Every call that describes models, and classify, answers as the other client's."""

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            assert "statistics" in (await client.metadata()).extensions
            assert [each.name for each in (await client.model_metadata("mlp")).inputs] == ["X"]
            assert (await client.model_config("simple")).max_batch_size == 8
            assert "mlp" in {each.name for each in await client.index()}
            assert not await client.is_ready("nope")
            (best,) = (await client.classify("mlp", {"X": _ROW}, classes=1))["Y"][0]
            assert best.index == (await client.infer("mlp", {"X": _ROW}))["Y"].argmax()
            assert (await client.statistics("mlp"))[0].name == "mlp"
            assert await client.health("mlp") == "SERVING"

    run(main())


def test_errors_are_those_of_the_other_client(server: RunningServer) -> None:
    """Refusals are typed, and carry code, text, model and request id."""

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            with pytest.raises(NotFound, match="'nope' is not found") as caught:
                await client.infer("nope", {"X": _ROW}, request_id="7")
            assert caught.value.code is grpc.StatusCode.NOT_FOUND
            assert (caught.value.model, caught.value.request_id) == ("nope", "7")
            with pytest.raises(InvalidArgument, match=r"\[request id: 8\].*expects 'FP32'"):
                await client.infer("mlp", {"X": _ROW.astype(int)}, request_id="8")
            with pytest.raises(DeadlineExceeded):
                await client.infer("slow", {"X": _SLOW_STEPS}, deadline=0.2)
        async with AsyncClient("127.0.0.1:1") as client:
            with pytest.raises(ServerUnreachable, match=r"no server answers at 127\.0\.0\.1:1"):
                await client.metadata()

    run(main())


def test_a_cancelled_task_cancels_its_call(server: RunningServer) -> None:
    """A task that is cancelled leaves nothing running at the server."""

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            task = asyncio.create_task(client.infer("slow", {"X": _SLOW_STEPS}))
            while not await asyncio.to_thread(server.runs, "slow"):
                pass
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while await asyncio.to_thread(server.runs, "slow"):
                pass

    run(main())


def test_a_closed_client_says_so_to_who_waits(server: RunningServer) -> None:
    """A call in progress when the client is closed raises Cancelled: its task was not cancelled."""

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            task = asyncio.create_task(client.infer("slow", {"X": _SLOW_STEPS}))
            while not await asyncio.to_thread(server.runs, "slow"):
                pass
            await client.close()
            with pytest.raises(Cancelled):
                await task
            while await asyncio.to_thread(server.runs, "slow"):
                pass

    run(main())


@pytest.mark.parametrize("is_async", [False, True], ids=["iterable", "async"])
def test_a_stream_answers_in_order(server: RunningServer, *, is_async: bool) -> None:
    """A thousand requests of one stream are answered in order, from either kind of iterable."""

    def rows() -> Iterator[dict[str, Array]]:
        return ({"X": np.full((1, 1), number, np.float32)} for number in range(1000))

    async def async_rows() -> AsyncIterator[dict[str, Array]]:
        for row in rows():
            yield row

    async def main() -> list[float]:
        async with AsyncClient(server.address) as client:
            source = async_rows() if is_async else rows()
            stream = client.stream("identity_fp32", source)
            return [answer.result()["Y"].item() async for answer in stream]

    assert run(main()) == list(range(1000))


def test_bf16_is_sent_where_the_model_asks_for_it(server: RunningServer) -> None:
    """An array of uint16 goes to an input of BF16 on a stream, too."""
    array = models.sample(np.random.default_rng(1), BF16, (2, 2))

    async def main() -> Array:
        async with AsyncClient(server.address) as client:
            stream = client.stream("identity_bf16", [{"X": array}])
            (answer,) = [answer async for answer in stream]
            return answer.result()["Y"]

    np.testing.assert_array_equal(run(main()), array)


def test_a_failed_request_leaves_the_stream_open(server: RunningServer) -> None:
    """The answer in the place of a bad request has a typed error, and those behind it are good."""
    good, bad = {"X": _ROW}, {"X": _ROW[:, :3]}

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            answers = [answer async for answer in client.stream("mlp", [good, bad, good])]
        assert [type(answer.error) for answer in answers] == [
            type(None),
            InvalidArgument,
            type(None),
        ]

    run(main())


def test_what_the_input_raises_is_raised_after_its_answers(server: RunningServer) -> None:
    """An input that fails has its earlier requests answered, then its own error is raised."""

    async def rows() -> AsyncIterator[dict[str, Array]]:
        yield {"X": _ROW}
        raise LookupError("no more data")

    async def main() -> None:
        async with AsyncClient(server.address) as client:
            stream = client.stream("mlp", rows())
            assert (await anext(stream)).error is None
            with pytest.raises(LookupError, match="no more data"):
                await anext(stream)

    run(main())


def test_a_stream_draws_no_more_than_its_window(server: RunningServer) -> None:
    """A reader who has read ten answers of an endless input has made it give ten and a window."""
    drawn = itertools.count(1)
    last, is_full = 0, asyncio.Event()

    async def rows() -> AsyncIterator[dict[str, Array]]:
        nonlocal last
        for last in drawn:
            if last == 18:
                is_full.set()
            yield {"X": _ROW}

    async def main() -> None:
        async with (
            AsyncClient(server.address) as client,
            aclosing(client.stream("mlp", rows(), window=8)) as stream,
        ):
            for _ in range(10):
                (await anext(stream)).result()
            await is_full.wait()
            await client.is_ready()  # as long as it takes to come back from the server
            assert last == 18

    run(main())


def test_a_stream_that_ends_early_is_malformed() -> None:
    """A server that ends a stream with requests unanswered does not look like success."""

    def answer(requests: Iterator[pb.ModelInferRequest]) -> Iterator[pb.ModelStreamInferResponse]:
        first = next(requests)
        yield pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(id=first.id))
        next(requests)

    async def main(address: str) -> None:
        async with AsyncClient(address) as client:
            stream = client.stream("m", [{"X": _ROW}] * 2)
            assert (await anext(stream)).index == 0
            with pytest.raises(MalformedAnswer, match="after 1 of 2 answers"):
                await anext(stream)

    with serving(stream=answer) as address:
        run(main(address))
