"""Models that give a request several answers, through the Python clients."""

import asyncio
import threading
from contextlib import aclosing

import numpy as np
import pytest

from service.client import AsyncClient, Client, InvalidArgument, Unsupported
from service.pb import grpc_service_pb2 as pb
from tests.support.requests import x
from tests.support.servicer import Answers, Requests, part, serving
from tests.support.waiting import WAIT_S


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
