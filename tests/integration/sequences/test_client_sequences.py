"""Sequences of the Python clients, on models that keep a state."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from grpc import StatusCode

from service.client import (
    AsyncClient,
    Client,
    InvalidArgument,
    RequestRefused,
    SequenceEnded,
    ServerUnreachable,
)
from service.pb import grpc_service_pb2 as pb
from service.tensors import Array
from tests.support.requests import x
from tests.support.sequences import ROWS
from tests.support.servers import RunningServer
from tests.support.servicer import Refusal, part, serving
from tests.support.waiting import WAIT_S, eventually

_OVER_STREAMS = pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    """Connect to the server."""
    with Client(server.address) as connected:
        yield connected


def started(server: RunningServer, model: str) -> float:
    """Return how many sequences of a model are in progress."""
    return server.sample("penstock_sequences_open", model=model, version="1")


@_OVER_STREAMS
def test_steps_share_a_state(client: Client, *, stream: bool) -> None:
    """Each step of two interleaved sequences sees the steps of its own one."""
    with (
        client.sequence("total", stream=stream) as ones,
        client.sequence("total", stream=stream) as tens,
    ):
        for number in range(1, 4):
            last = number == 3
            assert ones.step(x(1), last=last)["Y"].item() == number
            assert tens.step(x(10), last=last)["Y"].item() == 10 * number


@_OVER_STREAMS
def test_a_model_that_answers_at_the_end_alone(server: RunningServer, *, stream: bool) -> None:
    """Before its END a sequence gets no outputs from such a model, and waits for none."""

    async def totals() -> list[list[float]]:
        async with (
            AsyncClient(server.address, deadline=5.0) as connected,
            connected.sequence("at_end", stream=stream) as steps,
        ):
            answers = [await steps.step(x(1), last=number == 3) for number in range(1, 4)]
        return [[y.item() for y in answer.values()] for answer in answers]

    with (
        Client(server.address, deadline=5.0) as client,
        client.sequence("at_end", stream=stream) as steps,
    ):
        answers = [steps.step(x(1), last=number == 3) for number in range(1, 4)]
    assert [[y.item() for y in answer.values()] for answer in answers] == [[], [], [3.0]]
    assert asyncio.run(totals()) == [[], [], [3.0]]


@_OVER_STREAMS
def test_an_async_sequence_shares_a_state(server: RunningServer, *, stream: bool) -> None:
    """Fifty sequences at once on one asyncio client keep their states apart."""

    async def one(client: AsyncClient, value: float) -> list[float]:
        async with client.sequence("total", stream=stream) as sequence:
            return [
                (await sequence.step(x(value), last=number == 4))["Y"].item() for number in range(5)
            ]

    async def main() -> list[list[float]]:
        async with asyncio.timeout(WAIT_S), AsyncClient(server.address) as client:
            return await asyncio.gather(*(one(client, value) for value in range(50)))

    sums = asyncio.run(main())
    assert sums == [[value * number for number in range(1, 6)] for value in range(50)]


@_OVER_STREAMS
def test_run_takes_a_step_an_element(client: Client, *, stream: bool) -> None:
    """What run() yields are the answers, and the last element ends the sequence."""
    with client.sequence("total", sequence_id="by run", stream=stream) as sequence:
        sums = [out["Y"].item() for out in sequence.run(x(value) for value in range(5))]
        assert sums == list(itertools.accumulate(range(5)))
        with pytest.raises(SequenceEnded, match="has had its last step, number 4"):
            sequence.step(x(1))
    with pytest.raises(InvalidArgument, match="must specify the START flag"):
        client.infer("total", x(1), parameters={"sequence_id": "by run"})


def test_an_async_run_takes_async_inputs(server: RunningServer) -> None:
    """An asyncio sequence steps through what an asynchronous iterable gives."""

    async def values() -> AsyncIterator[dict[str, Array]]:
        for value in range(5):
            yield x(value)

    async def main() -> list[float]:
        async with (
            AsyncClient(server.address) as client,
            client.sequence("total") as sequence,
        ):
            return [out["Y"].item() async for out in sequence.run(values())]

    assert asyncio.run(main()) == list(itertools.accumulate(range(5)))


def test_a_stream_is_a_sequence_without_an_id(client: Client) -> None:
    """Where states belong to streams, no id is needed, and each stream has a state of its own."""
    with (
        client.sequence("of_stream", sequence_id=0, stream=True) as first,
        client.sequence("of_stream", sequence_id=0, stream=True) as second,
    ):
        assert first.step(x(1))["Y"].item() == 1
        assert second.step(x(10))["Y"].item() == 10
        assert first.step(x(1))["Y"].item() == 2


def test_leaving_a_stream_frees_its_state(server: RunningServer, client: Client) -> None:
    """A sequence of a stream that is left without its last step is gone at the server."""
    with client.sequence("of_stream", sequence_id=0, stream=True) as sequence:
        sequence.step(x(1))
        eventually(lambda: started(server, "of_stream") == 1, "a sequence in progress")
    eventually(lambda: started(server, "of_stream") == 0, "no sequence in progress")


def test_an_error_ends_the_sequence(client: Client) -> None:
    """After a step that failed, the next one says so and is not sent."""
    with client.sequence("poisonable") as sequence:
        sequence.step({"X": np.array([[1]], np.int64)})
        with pytest.raises(RequestRefused):
            sequence.step({"X": np.array([[ROWS]], np.int64)})
        with pytest.raises(SequenceEnded, match="has ended at step 1, which failed"):
            sequence.step({"X": np.array([[1]], np.int64)})


def test_an_array_that_cannot_be_sent_ends_nothing(client: Client) -> None:
    """A TypeError before anything was sent leaves the sequence as it was."""
    with client.sequence("total") as sequence:
        with pytest.raises(TypeError, match="complex"):
            sequence.step({"X": np.ones((1, 1), complex)})
        assert sequence.step(x(2), last=True)["Y"].item() == 2


def test_an_id_that_names_nothing_is_refused(client: Client) -> None:
    """Id 0 is only for streams, and an id of 64 bits for nobody."""
    with pytest.raises(ValueError, match="needs stream=True"):
        client.sequence("total", sequence_id=0)
    with pytest.raises(ValueError, match=r"expected an integer of 0 to 2\*\*63-1"):
        client.sequence("total", sequence_id=1 << 63)


def test_chosen_ids_are_unlike() -> None:
    """A hundred sequences get a hundred ids, START on the first step and END on the last."""
    seen: list[dict[str, object]] = []

    def answer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        seen.append({
            key: getattr(value, value.WhichOneof("parameter_choice") or "")
            for key, value in request.parameters.items()
        })  # fmt: skip
        return pb.ModelInferResponse()

    with serving(infer=answer) as address, Client(address) as client:
        for _ in range(100):
            with client.sequence("m") as sequence:
                for last in (False, False, True):
                    sequence.step({}, last=last)
    assert len({each["sequence_id"] for each in seen}) == 100
    assert [each.keys() - {"sequence_id"} for each in seen[:3]] == [
        {"sequence_start"}, set(), {"sequence_end"},
    ]  # fmt: skip


def test_steps_are_never_sent_twice() -> None:
    """A step that UNAVAILABLE answers fails at once, though the client retries other calls."""
    calls = itertools.count(1)
    count = 0

    def answer(_request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        nonlocal count
        count = next(calls)
        raise Refusal(StatusCode.UNAVAILABLE, "not now")

    with serving(infer=answer) as address, Client(address) as client:
        with client.sequence("m") as sequence, pytest.raises(RequestRefused, match="not now"):
            sequence.step({})
        assert count == 1
        with pytest.raises(RequestRefused, match="not now"):
            client.infer("m", {})
        assert count == 4


def test_steps_stay_with_one_server() -> None:
    """Of two servers behind one name, all steps of a sequence reach the same; other calls both."""
    seen: list[int] = []

    def answering(server: int) -> pb.ModelInferResponse:
        seen.append(server)
        return pb.ModelInferResponse()

    with (
        serving(infer=lambda _request: answering(1)) as one,
        serving(infer=lambda _request: answering(2)) as two,
        Client(f"ipv4:{one},{two}") as client,
    ):
        with client.sequence("m") as sequence:
            for _ in range(10):
                sequence.step({})
        assert len(set(seen)) == 1
        # Both connections come up in their own time.
        eventually(lambda: client.infer("m", {}) is not None and set(seen) == {1, 2}, "both")


def test_a_cancelled_step_ends_the_sequence() -> None:
    """A task that is cancelled in a step leaves a sequence that takes no more of them."""
    arrived = asyncio.Event()

    async def main(address: str) -> None:
        loop = asyncio.get_running_loop()
        loops.append(loop)
        async with AsyncClient(address) as client, client.sequence("m", stream=True) as sequence:
            task = asyncio.create_task(sequence.step({}))
            await arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(SequenceEnded):
                await sequence.step({})

    loops: list[asyncio.AbstractEventLoop] = []

    def answer(requests: Iterator[pb.ModelInferRequest]) -> Iterator[pb.ModelStreamInferResponse]:
        first = next(requests)
        loops[0].call_soon_threadsafe(arrived.set)
        for _request in requests:  # until the client leaves
            yield part(first.id)

    with serving(stream=answer) as address:
        asyncio.run(main(address))


def test_nobody_at_the_address() -> None:
    """A sequence over a stream to a port where nothing listens says so."""
    with (
        Client("127.0.0.1:1") as client,
        client.sequence("m", stream=True) as sequence,
        pytest.raises(ServerUnreachable),
    ):
        sequence.step({})
