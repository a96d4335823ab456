"""What tritonclient's HTTP client on asyncio gets from Penstock, one function a case.

Run in an environment of its own by test_rest.py.
"""

import asyncio
from typing import Any

import numpy as np
import tritonclient.http.aio as httpclient


def connect(address: str) -> Any:
    """Return the client of a case."""
    return httpclient.InferenceServerClient(address)


async def test_hundred_at_once(client: Any) -> None:
    """A hundred requests at once each get their own rows."""

    async def ask(index: int) -> None:
        first = np.full((1, 16), index, np.int32)
        inputs = [httpclient.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        for value in inputs:
            value.set_data_from_numpy(first, binary_data=index % 2 == 0)
        result = await client.infer("simple", inputs)
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), 2 * first)

    await asyncio.gather(*(ask(index) for index in range(100)))


async def test_metadata(client: Any) -> None:
    """Health and metadata answer on one event loop."""
    assert await client.is_server_ready()
    assert (await client.get_model_metadata("simple"))["outputs"][1]["name"] == "OUTPUT1"
