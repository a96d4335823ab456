"""What the REST client of KServe's SDK gets from Penstock, one function a case.

Run in an environment of its own by test_rest.py.
"""

from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig, httpx

_URL: list[str] = []


def connect(address: str) -> InferenceRESTClient:
    """Return the client of a case."""
    _URL[:] = [f"http://{address}"]
    return InferenceRESTClient(RESTConfig(protocol="v2"))


async def test_ready(client: Any) -> None:
    """The server is live and ready and so is a model; an unknown model is not."""
    assert await client.is_server_live(_URL[0])
    assert await client.is_server_ready(_URL[0])
    assert await client.is_model_ready(_URL[0], "simple")
    assert not await client.is_model_ready(_URL[0], "absent")


async def test_infer(client: Any) -> None:
    """Tensors go as JSON and as binary data, and are answered with the request's id."""
    first = np.arange(32, dtype=np.int32).reshape(2, 16)
    for binary in (False, True):
        inputs = [InferInput(name, [2, 16], "INT32") for name in ("INPUT0", "INPUT1")]
        for value in inputs:
            value.set_data_from_numpy(first, binary_data=binary)
        request = InferRequest("simple", inputs, request_id="7")
        answer = await client.infer(_URL[0], request, model_name="simple")
        assert (answer.id, answer.model_name) == ("7", "simple")  # it drops the version
        np.testing.assert_array_equal(answer.outputs[0].as_numpy(), 2 * first)


async def test_error(client: Any) -> None:
    """An error has its status and its text."""
    try:
        await client.infer(_URL[0], {"inputs": []}, model_name="absent")
    except httpx.HTTPStatusError as error:
        assert error.response.status_code == 404
        assert "Request for unknown model: 'absent' is not found" in str(error)
    else:
        raise AssertionError("the server accepted what it should refuse")
