"""What PyTriton's clients get from Penstock, one function a case.

Run in an environment of its own by test_programs.py. Each client waits until server and
model are ready and reads the model's configuration before it sends.
"""

import asyncio
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from pytriton.client import (
    AsyncioDecoupledModelClient,
    AsyncioModelClient,
    DecoupledModelClient,
    FuturesModelClient,
    ModelClient,
)
from pytriton.client.exceptions import PyTritonClientInferenceServerError

ROWS = 4
FIRST = np.arange(16 * ROWS, dtype=np.int32).reshape(ROWS, 16)
SECOND = np.full((ROWS, 16), 5, np.int32)


def connect(address: str) -> AbstractContextManager[str]:
    """Give the address as PyTriton has it."""
    return nullcontext(f"grpc://{address}")


def test_model_client(url: str) -> None:
    """The blocking client infers samples and batches, by position and by name."""
    with ModelClient(url, "simple", init_timeout_s=30) as client:
        assert client.is_batching_supported
        config = client.model_config
        assert config.max_batch_size == 8
        assert [tensor.name for tensor in config.inputs] == ["INPUT0", "INPUT1"]
        sample = client.infer_sample(FIRST[0], SECOND[0])
        np.testing.assert_array_equal(sample["OUTPUT0"], FIRST[0] + SECOND[0])
        batch = client.infer_batch(INPUT0=FIRST, INPUT1=SECOND)
        np.testing.assert_array_equal(batch["OUTPUT1"], FIRST - SECOND)


def test_load(url: str) -> None:
    """A model is unloaded and loaded again."""
    with ModelClient(url, "dummy", init_timeout_s=30) as client:
        client.unload_model()
        client.load_model()
        ones = np.ones((1, 10), np.float32)
        assert client.infer_sample(ones)["a"].tolist() == [[2] * 10]


def test_parameters(url: str) -> None:
    """A caller's own parameters and headers are accepted."""
    with ModelClient(url, "simple", init_timeout_s=30) as client:
        batch = client.infer_batch(
            FIRST, SECOND, parameters={"trace": "abc", "count": 3}, headers={"x-tenant": "one"}
        )
        np.testing.assert_array_equal(batch["OUTPUT0"], FIRST + SECOND)


def test_error(url: str) -> None:
    """What the server refuses is an error with its words, and the client goes on."""
    with ModelClient(url, "simple", init_timeout_s=30) as client:
        try:
            client.infer_batch(FIRST[:, :15], SECOND[:, :15])
        except PyTritonClientInferenceServerError as error:
            assert "unexpected shape for input 'INPUT0'" in str(error), error
        else:
            raise AssertionError("the server accepted what it should refuse")
        client.infer_batch(FIRST, SECOND)


def test_asyncio_model_client(url: str) -> None:
    """The asyncio client infers forty batches at once."""

    async def run() -> None:
        async with AsyncioModelClient(url, "simple", init_timeout_s=30) as client:
            batches = await asyncio.gather(
                *(client.infer_batch(FIRST + index, SECOND) for index in range(40))
            )
            for index, batch in enumerate(batches):
                np.testing.assert_array_equal(batch["OUTPUT0"], FIRST + SECOND + index)

    asyncio.run(run())


def test_futures_model_client(url: str) -> None:
    """The client of futures infers twenty samples in its thread."""
    # Its further threads forget the scheme of the address, and would speak HTTP to the port.
    with FuturesModelClient(url, "simple", max_workers=1, init_timeout_s=30) as client:
        futures = [client.infer_sample(FIRST[0] + index, SECOND[0]) for index in range(20)]
        for index, future in enumerate(futures):
            sums = future.result(timeout=30)["OUTPUT0"]
            np.testing.assert_array_equal(sums, FIRST[0] + SECOND[0] + index)


REPEAT = {
    "IN": np.array([4, 2, 0], np.int32),
    "DELAY": np.zeros(3, np.uint32),
    "WAIT": np.zeros(1, np.uint32),
}


def test_decoupled_model_client(url: str) -> None:
    """The decoupled client iterates over the answers, and again with its next request."""
    with DecoupledModelClient(url, "repeat_int32", init_timeout_s=30) as client:
        for _ in range(2):
            answers = [int(answer["OUT"][0]) for answer in client.infer_sample(**REPEAT)]
            assert answers == [4, 2, 0]


def test_asyncio_decoupled_model_client(url: str) -> None:
    """The asyncio decoupled client iterates over the answers."""

    async def run() -> None:
        async with AsyncioDecoupledModelClient(url, "repeat_int32", init_timeout_s=30) as client:
            answers = [int(answer["OUT"][0]) async for answer in client.infer_sample(**REPEAT)]
            assert answers == [4, 2, 0]

    asyncio.run(run())
