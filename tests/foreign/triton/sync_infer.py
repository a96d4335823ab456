"""What tritonclient's blocking client gets from ModelInfer, one function a case.

Run in an environment of its own by test_programs.py.
"""

import threading
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as grpcclient
from simple import (  # type: ignore[import-not-found]  # beside this file
    RNG,
    pair,
    refusal,
    simple_inputs,
    tensor,
)
from tritonclient.utils import InferenceServerException


def connect(address: str) -> Any:
    """Return the client of a case."""
    return grpcclient.InferenceServerClient(address)


def test_infer(client: Any) -> None:
    """A request of several rows is answered with its id and the concrete version."""
    first, second = pair(rows=3)
    result = client.infer("simple", simple_inputs(first, second), request_id="7")
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == ("simple", "1", "7")
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), first + second)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), first - second)


def test_more_rows_than_a_batch(client: Any) -> None:
    """A request of more rows than max_batch_size is split and its answer joined."""
    first, second = pair(rows=21)
    result = client.infer("simple", simple_inputs(first, second))
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), first + second)


def test_requested_outputs(client: Any) -> None:
    """Exactly the requested outputs come back, in the order of the request."""
    first, second = pair()
    outputs = [grpcclient.InferRequestedOutput(name) for name in ("OUTPUT1", "OUTPUT0")]
    result = client.infer("simple", simple_inputs(first, second), outputs=outputs)
    assert [output.name for output in result.get_response().outputs] == ["OUTPUT1", "OUTPUT0"]
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), first - second)
    only = client.infer("simple", simple_inputs(first, second), outputs=outputs[:1])
    assert [output.name for output in only.get_response().outputs] == ["OUTPUT1"]


def test_bytes(client: Any) -> None:
    """BYTES elements keep NUL bytes, and empty ones stay empty."""
    values = [[b"a\0b\0", b""], ["Stra\u00dfe".encode(), b"\0"]]
    array = np.array(values, dtype=np.object_)
    result = client.infer("identity_bytes", [tensor("X", array, "BYTES")])
    assert result.as_numpy("Y").tolist() == values


def test_bytes_that_are_no_text(client: Any) -> None:
    """Bytes that are no UTF-8 come back as they were."""
    values = [[b"text", b"\xff\xfe"]]
    array = np.array(values, dtype=np.object_)
    result = client.infer("identity_bytes", [tensor("X", array, "BYTES")])
    assert result.as_numpy("Y").tolist() == values


def test_fp32(client: Any) -> None:
    """FP32 comes back bit for bit, with infinities and NaN."""
    array = np.array([[1.5, -0.0, np.inf, np.nan, 1e-45]], np.float32)
    result = client.infer("identity_fp32", [tensor("X", array, "FP32")])
    assert result.as_numpy("Y").tobytes() == array.tobytes()


def test_fp16(client: Any) -> None:
    """FP16 comes back bit for bit."""
    array = RNG.standard_normal((2, 5)).astype(np.float16)
    result = client.infer("identity_fp16", [tensor("X", array, "FP16")])
    assert result.get_response().outputs[0].datatype == "FP16"
    np.testing.assert_array_equal(result.as_numpy("Y"), array)


def test_bf16(client: Any) -> None:
    """BF16 comes back bit for bit."""
    array = RNG.standard_normal((2, 5)).astype(ml_dtypes.bfloat16)
    result = client.infer("identity_bf16", [tensor("X", array, "BF16")])
    assert result.get_response().outputs[0].datatype == "BF16"
    assert (
        result.as_numpy("Y").astype(np.float32).tolist()
        == array.astype(
            np.float32,
        ).tolist()
    )


def test_unknown_model(client: Any) -> None:
    """An unknown model is NOT_FOUND in Triton's words."""
    status, message = refusal(lambda: client.infer("absent", simple_inputs(*pair())))
    assert status == "StatusCode.NOT_FOUND"
    assert message == "Request for unknown model: 'absent' is not found"


def test_unknown_version(client: Any) -> None:
    """An unknown version of a known model is NOT_FOUND in Triton's words."""
    status, message = refusal(lambda: client.infer("simple", simple_inputs(*pair()), "99"))
    assert status == "StatusCode.NOT_FOUND"
    assert message == "Request for unknown model: 'simple' version 99 is not found"


def test_wrong_shape(client: Any) -> None:
    """A wrong shape is INVALID_ARGUMENT and says which input, what it takes and what came."""
    narrow = np.zeros((1, 15), np.int32)
    status, message = refusal(lambda: client.infer("simple", simple_inputs(narrow, narrow)))
    assert status == "StatusCode.INVALID_ARGUMENT"
    expected = (
        "unexpected shape for input 'INPUT0' for model 'simple'. Expected [-1,16], got [1,15]"
    )
    assert expected in message, message


def test_wrong_datatype(client: Any) -> None:
    """A wrong datatype is INVALID_ARGUMENT and names both."""
    array = np.zeros((1, 16), np.float32)
    inputs = [tensor(name, array, "FP32") for name in ("INPUT0", "INPUT1")]
    status, message = refusal(lambda: client.infer("simple", inputs))
    assert status == "StatusCode.INVALID_ARGUMENT"
    expected = "inference input 'INPUT0' data-type is 'FP32', but model 'simple' expects 'INT32'"
    assert expected in message, message


def test_missing_input(client: Any) -> None:
    """A missing input is INVALID_ARGUMENT and named."""
    status, message = refusal(lambda: client.infer("simple", simple_inputs(*pair())[:1]))
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "INPUT1" in message, message


def test_unknown_output(client: Any) -> None:
    """An output that the model does not have is INVALID_ARGUMENT."""
    outputs = [grpcclient.InferRequestedOutput("absent")]
    status, message = refusal(
        lambda: client.infer("simple", simple_inputs(*pair()), outputs=outputs),
    )
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "unexpected inference output 'absent' for model 'simple'" in message, message


def test_deadline(client: Any) -> None:
    """client_timeout ends a slow request, and the server goes on."""
    long = [tensor("X", np.array([[1000]], np.int64), "INT64")]
    status, _ = refusal(lambda: client.infer("slow", long, client_timeout=0.2))
    assert status == "StatusCode.DEADLINE_EXCEEDED"
    short = [tensor("X", np.array([[1]], np.int64), "INT64")]
    assert client.infer("slow", short).as_numpy("Y").tolist() == [[1]]


def test_compression(client: Any) -> None:
    """Compressed requests are answered like others."""
    first, second = np.zeros((2, 8, 16), np.int32)
    for algorithm in ("gzip", "deflate"):
        result = client.infer(
            "simple",
            simple_inputs(first, second),
            compression_algorithm=algorithm,
        )
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), first + second)


def test_headers(client: Any) -> None:
    """Headers that mean nothing to the server do no harm."""
    headers = {"test": "1", "authorization": "Bearer nobody", "triton_grpc_error": "true"}
    first, second = pair()
    result = client.infer("simple", simple_inputs(first, second), headers=headers)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), first + second)


def test_parameters(client: Any) -> None:
    """Priority, timeout and a caller's own parameters are accepted."""
    first, second = pair()
    result = client.infer(
        "simple",
        simple_inputs(first, second),
        timeout=10_000_000,
        parameters={"trace": "abc", "count": 3, "flag": True},
    )
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), first + second)


def test_async_infer(client: Any) -> None:
    """Forty requests with callbacks are each answered once with their own rows."""
    pairs = [pair() for _ in range(40)]
    answers: dict[int, Any] = {}
    done = threading.Semaphore(0)

    def callback(index: int, result: Any, error: Any) -> None:
        assert index not in answers
        answers[index] = error or result
        done.release()

    for index, (first, second) in enumerate(pairs):
        client.async_infer(
            "simple",
            simple_inputs(first, second),
            callback=lambda result, error, index=index: callback(index, result, error),
        )
    assert all(done.acquire(timeout=30) for _ in pairs)
    for index, (first, second) in enumerate(pairs):
        np.testing.assert_array_equal(answers[index].as_numpy("OUTPUT0"), first + second)


def test_async_cancel(client: Any) -> None:
    """A cancelled request ends as cancelled, and the server goes on."""
    outcome: list[Any] = []
    done = threading.Event()

    def callback(result: Any, error: Any) -> None:
        outcome.append(error or result)
        done.set()

    inputs = [tensor("X", np.array([[1000]], np.int64), "INT64")]
    client.async_infer("slow", inputs, callback=callback).cancel()
    assert done.wait(timeout=30)
    assert isinstance(outcome[0], InferenceServerException), outcome
    assert client.is_server_ready()
    client.infer("simple", simple_inputs(*pair()))
