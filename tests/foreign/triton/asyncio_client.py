"""What tritonclient's asyncio client gets from Penstock, one function a case.

Run in an environment of its own by test_programs.py.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpcclient
from simple import async_refusal, pair, simple_inputs, tensor  # type: ignore[import-not-found]  # beside this file


def connect(address: str) -> Any:
    """Return the client of a case."""
    return grpcclient.InferenceServerClient(address)


async def test_health_and_metadata(client: Any) -> None:
    """Health, metadata, configuration, statistics and index answer on one event loop."""
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("simple")
    assert not await client.is_model_ready("absent")
    assert (await client.get_server_metadata()).name == "penstock"
    assert (await client.get_model_metadata("simple")).inputs[0].datatype == "INT32"
    assert (await client.get_model_config("simple")).config.max_batch_size == 8
    assert (await client.get_inference_statistics("simple")).model_stats[0].name == "simple"
    names = {model.name for model in (await client.get_model_repository_index()).models}
    assert "identity_bytes" in names


async def test_concurrent_infer(client: Any) -> None:
    """A hundred requests at once each get their own rows."""
    pairs = [pair(rows=1 + index % 3) for index in range(100)]
    results = await asyncio.gather(
        *(client.infer("simple", simple_inputs(*values)) for values in pairs),
    )
    for (first, second), result in zip(pairs, results, strict=True):
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), first + second)
        np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), first - second)


async def test_errors(client: Any) -> None:
    """Errors carry gRPC's codes and Triton's words."""
    for model, status, text in (
        ("absent", "StatusCode.NOT_FOUND", "Request for unknown model: 'absent' is not found"),
        ("identity_fp32", "StatusCode.INVALID_ARGUMENT", "expected 1 inputs but got 2"),
    ):
        refused = await async_refusal(client.infer(model, simple_inputs(*pair())))
        assert refused[0] == status
        assert text in refused[1], refused


async def test_deadline(client: Any) -> None:
    """client_timeout ends a slow request, and the server goes on."""
    slow = [tensor("X", np.array([[1000]], np.int64), "INT64")]
    status, _ = await async_refusal(client.infer("slow", slow, client_timeout=0.2))
    assert status == "StatusCode.DEADLINE_EXCEEDED"
    await client.infer("simple", simple_inputs(*pair()))


async def test_cancelled_request(client: Any) -> None:
    """A cancelled task cancels its request and leaves the others alone."""
    for steps in (300, 3000):  # where the client is slow, the first may be over too early
        slow = [tensor("X", np.array([[steps]], np.int64), "INT64")]
        doomed = asyncio.ensure_future(client.infer("slow", slow))
        other = asyncio.ensure_future(client.infer("slow", slow))
        await client.is_server_live()  # both requests have been sent by now
        is_in_time = doomed.cancel()
        assert (await other).as_numpy("Y").tolist() == [[steps]]
        await asyncio.gather(doomed, return_exceptions=True)
        if is_in_time:
            break
    assert doomed.cancelled()


async def test_stream(client: Any) -> None:
    """An asynchronous stream is answered in order, errors in their place."""
    pairs = [pair() for _ in range(60)]

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for index, values in enumerate(pairs):
            model = "absent" if index == 30 else "simple"
            inputs = simple_inputs(*values)
            yield {"model_name": model, "inputs": inputs, "request_id": str(index)}

    answers = [answer async for answer in client.stream_infer(requests())]
    assert len(answers) == len(pairs)
    for index, ((first, second), (result, error)) in enumerate(zip(pairs, answers, strict=True)):
        if index == 30:
            assert "Request for unknown model: 'absent' is not found" in error.message()
            continue
        assert error is None, error
        assert result.get_response().id == str(index)
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), first + second)


async def test_stream_answers_while_it_is_open(client: Any) -> None:
    """Each answer comes while the stream stays open: a request may depend on the one before."""
    answered = asyncio.Queue[int](maxsize=1)
    await answered.put(0)
    values = np.zeros((1, 16), np.int32)

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for _ in range(10):
            seen = np.full((1, 16), await answered.get(), np.int32)
            yield {"model_name": "simple", "inputs": simple_inputs(seen, values + 1)}

    total = 0
    async for result, error in client.stream_infer(requests()):
        assert error is None, error
        total = int(result.as_numpy("OUTPUT0")[0, 0])
        if total < 10:
            await answered.put(total)
    assert total == 10


async def test_two_streams(client: Any) -> None:
    """Two streams of one client run side by side, each in its own order."""

    async def run(offset: int) -> list[int]:
        async def requests() -> AsyncIterator[dict[str, Any]]:
            for index in range(40):
                array = np.array([[offset + index]], np.float32)
                inputs = [tensor("X", array, "FP32")]
                yield {"model_name": "identity_fp32", "inputs": inputs}

        answers = [answer async for answer in client.stream_infer(requests())]
        return [int(result.as_numpy("Y")[0, 0]) for result, _ in answers]

    first, second = await asyncio.gather(run(0), run(1000))
    assert first == list(range(40))
    assert second == list(range(1000, 1040))
