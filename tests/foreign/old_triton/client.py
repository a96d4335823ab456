"""What tritonclient 2.51, of the years of protobuf 4, gets from Penstock, one function a case.

Run in an environment of its own by test_programs.py.
"""

import queue
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

WAIT_S = 30.0


def simple_inputs(first: np.ndarray, second: np.ndarray) -> list[Any]:
    """Return the inputs of a request to simple."""
    inputs = []
    for name, array in (("INPUT0", first), ("INPUT1", second)):
        inputs.append(grpcclient.InferInput(name, list(array.shape), "INT32"))
        inputs[-1].set_data_from_numpy(array)
    return inputs


FIRST = np.arange(32, dtype=np.int32).reshape(2, 16)
SECOND = np.full((2, 16), 3, np.int32)


def connect(address: str) -> Any:
    """Return the client of a case."""
    return grpcclient.InferenceServerClient(address)


def test_metadata(client: Any) -> None:
    """Health, metadata, configuration, statistics and index are understood."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert not client.is_model_ready("absent")
    assert client.get_model_metadata("simple").versions == ["1"]
    assert client.get_model_config("simple").config.max_batch_size == 8
    assert client.get_inference_statistics("simple").model_stats[0].version == "1"
    assert "simple" in {model.name for model in client.get_model_repository_index().models}


def test_infer(client: Any) -> None:
    """A request is answered with its id and numbers, gzip or not."""
    for compression in (None, "gzip"):
        result = client.infer(
            "simple",
            simple_inputs(FIRST, SECOND),
            request_id="7",
            priority=1,
            compression_algorithm=compression,
        )
        assert result.get_response().id == "7"
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FIRST + SECOND)


def test_bytes(client: Any) -> None:
    """Text is added up as numbers, and comes back as text."""
    inputs = []
    for name, array in (("INPUT0", FIRST), ("INPUT1", SECOND)):
        text = np.array([str(value).encode() for value in array.ravel()], object)
        inputs.append(grpcclient.InferInput(name, [2, 16], "BYTES"))
        inputs[-1].set_data_from_numpy(text.reshape(2, 16))
    sums = client.infer("simple_string", inputs).as_numpy("OUTPUT0")
    np.testing.assert_array_equal(sums.astype(np.int32), FIRST + SECOND)


def test_error(client: Any) -> None:
    """An unknown model is NOT_FOUND in Triton's words."""
    try:
        client.infer("absent", simple_inputs(FIRST, SECOND))
    except InferenceServerException as error:
        assert error.status() == "StatusCode.NOT_FOUND"
        assert error.message() == "Request for unknown model: 'absent' is not found"
    else:
        raise AssertionError("the server accepted what it should refuse")


def test_stream(client: Any) -> None:
    """Fifty requests on a stream are answered in their order."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue(maxsize=100)
    client.start_stream(lambda result, error: answers.put((result, error)))
    for index in range(50):
        inputs = simple_inputs(FIRST + index, SECOND)
        client.async_stream_infer("simple", inputs, request_id=str(index))
    for index in range(50):
        result, error = answers.get(timeout=WAIT_S)
        assert error is None, error
        assert result.get_response().id == str(index)
        np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), FIRST + index - SECOND)
    client.stop_stream()
