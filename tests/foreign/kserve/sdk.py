"""What the client of KServe's SDK gets from Penstock, one function a case.

Run in an environment of its own by test_programs.py.
"""

from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest


def tensor(name: str, array: np.ndarray, datatype: str) -> Any:
    """Return an input whose data is raw."""
    value = InferInput(name, list(array.shape), datatype)
    value.set_data_from_numpy(array)
    return value


def connect(address: str) -> InferenceGRPCClient:
    """Return the client of a case."""
    return InferenceGRPCClient(address)


async def test_ready(client: InferenceGRPCClient) -> None:
    """The server is live and ready and so is a model; an unknown model is not."""
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("simple")
    assert not await client.is_model_ready("absent")


async def test_raw(client: InferenceGRPCClient) -> None:
    """Tensors from numpy go raw, and the answer has the request's id and numbers."""
    first = np.arange(32, dtype=np.int32).reshape(2, 16)
    second = np.full((2, 16), 3, np.int32)
    inputs = [tensor("INPUT0", first, "INT32"), tensor("INPUT1", second, "INT32")]
    answer = await client.infer(InferRequest("simple", inputs, request_id="7"))
    assert (answer.id, answer.model_name, answer.model_version) == ("7", "simple", "1")
    sums, differences = (output.as_numpy() for output in answer.outputs)
    np.testing.assert_array_equal(sums, first + second)
    np.testing.assert_array_equal(differences, first - second)


async def test_typed(client: InferenceGRPCClient) -> None:
    """Data from lists goes as typed contents, and is answered alike."""
    values = list(range(16))
    inputs = [InferInput(name, [1, 16], "INT32", values) for name in ("INPUT0", "INPUT1")]
    answer = await client.infer(InferRequest("simple", inputs))
    assert answer.outputs[0].as_numpy().ravel().tolist() == [2 * value for value in values]


async def test_fp16(client: InferenceGRPCClient) -> None:
    """FP16 comes back bit for bit."""
    array = np.array([0.5, -0.0, np.inf, 6e-8], np.float16)
    answer = await client.infer(InferRequest("identity_fp16", [tensor("INPUT0", array, "FP16")]))
    assert answer.outputs[0].as_numpy().tobytes() == array.tobytes()


async def test_bytes(client: InferenceGRPCClient) -> None:
    """BYTES come back with NUL bytes, and empty elements stay empty."""
    values = np.array([b"a\0b", b"", "\u00df".encode()], object)
    answer = await client.infer(InferRequest("identity_bytes", [tensor("INPUT0", values, "BYTES")]))
    assert answer.outputs[0].as_numpy().tolist() == values.tolist()


async def test_errors(client: InferenceGRPCClient) -> None:
    """An unknown model is NOT_FOUND and wrong data INVALID_ARGUMENT; neither is tried again."""
    array = np.zeros((1, 15), np.int32)
    inputs = [tensor(name, array, "INT32") for name in ("INPUT0", "INPUT1")]
    for model, code in (
        ("absent", grpc.StatusCode.NOT_FOUND),
        ("simple", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        try:
            await client.infer(InferRequest(model, inputs))
        except grpc.RpcError as error:
            assert error.code() is code, error
        else:
            raise AssertionError("the server accepted what it should refuse")
