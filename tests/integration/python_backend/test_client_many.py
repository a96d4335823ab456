"""Models with several answers, asked by the Python clients."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

import numpy as np
import pytest

from service.client import AsyncClient, Client, InvalidArgument, Unsupported
from service.tensors import Array
from tests.support.servers import RunningServer
from tests.support.waiting import WAIT_S


def repeat(*values: int, delay_ms: int = 0) -> dict[str, Array]:
    """Return a request for these values, one an answer."""
    return {
        "IN": np.array(values, np.int32),
        "DELAY": np.full(len(values), delay_ms, np.uint32),
        "WAIT": np.zeros(1, np.uint32),
    }


@pytest.fixture
def client(python_server: RunningServer) -> Iterator[Client]:
    """Connect to the server."""
    with Client(python_server.address) as connected:
        yield connected


def test_every_answer_comes_and_then_the_end(client: Client) -> None:
    """infer_many yields what the model gives, in its order; of nothing it yields nothing."""
    values = [out["OUT"].item() for out in client.infer_many("repeat_int32", repeat(4, 2, 9))]
    assert values == [4, 2, 9]
    assert list(client.infer_many("repeat_int32", repeat())) == []


def test_requests_of_one_stream_have_their_own_answers(client: Client) -> None:
    """Of many requests at once each has its answers in order and exactly one end."""
    counts = [3, 0, 1, 5, 2] * 10
    inputs = (repeat(*range(count)) for count in counts)
    answers: dict[int, list[int]] = {index: [] for index in range(len(counts))}
    ends = []
    for answer in client.stream("repeat_int32", inputs, decoupled=True, window=8):
        if outputs := answer.result():
            answers[answer.index].append(outputs["OUT"].item())
        if answer.is_final:
            ends.append(answer.index)
    assert answers == {index: list(range(count)) for index, count in enumerate(counts)}
    assert sorted(ends) == list(range(len(counts)))


def test_asyncio_readers_share_a_client(python_server: RunningServer) -> None:
    """Twenty tasks read the answers of their own requests at once."""

    async def one(client: AsyncClient, value: int) -> list[int]:
        many = client.infer_many("repeat_int32", repeat(value, value))
        return [out["OUT"].item() async for out in many]

    async def main() -> list[list[int]]:
        async with asyncio.timeout(WAIT_S), AsyncClient(python_server.address) as client:
            return await asyncio.gather(*(one(client, value) for value in range(20)))

    assert asyncio.run(main()) == [[value, value] for value in range(20)]


def test_leaving_early_frees_the_model(python_server: RunningServer) -> None:
    """Readers who leave after one of many slow answers let others have the instances."""
    slow = repeat(*range(1000), delay_ms=100)

    async def main() -> None:
        async with asyncio.timeout(WAIT_S), AsyncClient(python_server.address) as client:
            for _ in range(8):  # twice as many as there are instances
                async with aclosing(client.infer_many("repeat_int32", slow)) as many:
                    await anext(many)
            many = client.infer_many("repeat_int32", repeat(7))
            assert [out["OUT"].item() async for out in many] == [7]

    asyncio.run(main())


def test_what_the_model_refuses_is_typed(client: Client) -> None:
    """A refusal by the model's code, and of a unary call for it, are errors of their class."""
    wrong = repeat(1, 2) | {"DELAY": np.zeros(1, np.uint32)}
    with pytest.raises(InvalidArgument, match="expected IN and DELAY shape to match"):
        list(client.infer_many("repeat_int32", wrong))
    with pytest.raises(Unsupported, match="decoupled transaction policy"):
        client.infer("repeat_int32", repeat(1))
    with pytest.raises(Unsupported, match=r"infer_many\(\)"):
        list(client.stream("repeat_int32", [repeat(1, 2)]))
