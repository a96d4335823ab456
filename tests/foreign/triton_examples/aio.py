"""The examples of the asyncio client: every RPC, streams, sequences and decoupled answers."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from example import FIRST, SECOND, expect_sums, outputs, pair, tensor
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException


def connect(address: str) -> Any:
    """Return the client of a case."""
    return aio.InferenceServerClient(address)


async def refused(answer: Any) -> str:
    """Return the message of the error that awaiting must raise."""
    try:
        await answer
    except InferenceServerException as error:
        return str(error.message())
    raise AssertionError("the server accepted what it should refuse")


async def test_infer(client: Any) -> None:
    """Sums and differences come back."""
    wanted = outputs("OUTPUT0", "OUTPUT1")
    expect_sums(await client.infer("simple", pair(), outputs=wanted))


async def test_metadata(client: Any) -> None:
    """Health, metadata, configuration and statistics are understood."""
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("simple")
    assert (await client.get_server_metadata()).name == "triton"
    assert (await client.get_model_metadata("simple", as_json=True))["name"] == "simple"
    assert (await client.get_model_config("simple")).config.max_batch_size == 8
    assert len((await client.get_inference_statistics("simple")).model_stats) == 1
    assert "Request for unknown model: 'x'" in await refused(client.get_model_metadata("x"))


async def test_model_control(client: Any) -> None:
    """A model is unloaded and loaded, and the index tells."""
    await client.unload_model("dummy")
    assert not await client.is_model_ready("dummy")
    await client.load_model("dummy")
    index = (await client.get_model_repository_index()).models
    assert ("dummy", "READY") in {(model.name, model.state) for model in index}


async def test_settings(client: Any) -> None:
    """Trace and log settings are read and set."""
    settings = (await client.update_trace_settings("simple", {"trace_rate": "7"})).settings
    assert list(settings["trace_rate"].value) == ["7"]
    await client.update_trace_settings("simple", {"trace_rate": None})
    assert (await client.get_trace_settings("simple")).settings["trace_mode"].value == ["triton"]
    await client.update_log_settings({"log_verbose_level": 0})
    assert (await client.get_log_settings()).settings["log_warning"].bool_param


async def test_shared_memory(client: Any) -> None:
    """What the registers of regions hold is read, removed, and refused."""
    await client.unregister_system_shared_memory()
    await client.unregister_cuda_shared_memory()
    assert not (await client.get_system_shared_memory_status()).regions
    assert not (await client.get_cuda_shared_memory_status()).regions
    expected = "Unable to open shared memory region: '/no-such'"
    assert expected in await refused(client.register_system_shared_memory("a", "/no-such", 8))


async def test_sequences_on_a_stream(client: Any) -> None:
    """Two sequences of one stream, in turn."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for step, value in enumerate((5, 6, 7)):
            for sequence in ("a", "b"):
                array = np.array([[value]], np.int32)
                yield {
                    "model_name": "simple_sequence",
                    "inputs": [tensor("INPUT", array, "INT32")],
                    "request_id": sequence,
                    "sequence_id": sequence,
                    "sequence_start": step == 0,
                    "sequence_end": step == 2,
                }

    found: dict[str, list[int]] = {"a": [], "b": []}
    async for result, error in client.stream_infer(requests()):
        assert error is None, error
        found[result.get_response().id].append(int(result.as_numpy("OUTPUT")[0, 0]))
    assert found == {"a": [6, 6, 7], "b": [6, 6, 7]}


async def test_decoupled(client: Any) -> None:
    """Several answers to a request, and no empty one at the end, for this client asks for none."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        inputs = [
            tensor("IN", np.array([9, 8], np.int32), "INT32"),
            tensor("DELAY", np.zeros(2, np.uint32), "UINT32"),
            tensor("WAIT", np.zeros(1, np.uint32), "UINT32"),
        ]
        yield {"model_name": "repeat_int32", "inputs": inputs}

    answers = [result async for result, _ in client.stream_infer(requests())]
    assert [int(answer.as_numpy("OUT")[0]) for answer in answers] == [9, 8]


async def test_errors_on_a_stream(client: Any) -> None:
    """A wrong request is answered in its place."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for model in ("simple", "absent", "simple"):
            yield {"model_name": model, "inputs": pair(FIRST, SECOND)}

    errors = [error is None async for _, error in client.stream_infer(requests())]
    assert errors == [True, False, True]
