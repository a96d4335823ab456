"""Models that are code: parameters of a request, cancellation, errors as gRPC's statuses."""

import queue
from typing import Any

import grpc
import numpy as np
from example import connect, refusal, tensor

__all__ = ["connect"]
WAIT_S = 30.0
ONE = np.ones(1, np.float32)


def test_parameters(client: Any) -> None:
    """The model gets a caller's own parameters, whatever their type."""
    result = client.infer(
        "parameter",
        [tensor("INPUT0", ONE, "FP32")],
        parameters={"text": "a", "number": 7, "flag": True, "real": 0.5},
    )
    names = [name.decode() for name in result.as_numpy("key")]
    values = [value.decode() for value in result.as_numpy("value")]
    found = dict(zip(names, values, strict=True))
    assert found == {"text": "a", "number": "7", "flag": "True", "real": "0.5"}


def test_reserved_parameters(client: Any) -> None:
    """Parameters of Triton's own names are refused, by the client or the server."""
    for name in ("sequence_id", "priority", "triton_x"):
        refusal(
            lambda key=name: client.infer(
                "parameter", [tensor("INPUT0", ONE, "FP32")], parameters={key: 1}
            )
        )


def test_deadline(client: Any) -> None:
    """A deadline ends a request that runs for seconds, and the server stops it."""
    slow = [tensor("INPUT0", np.array([[1]], np.int32), "INT32")]
    assert client.is_server_live()  # it is connected now: the deadline passes at the server
    status, message = refusal(
        lambda: client.infer("custom_identity_int32", slow, client_timeout=0.3)
    )
    assert status == "DEADLINE_EXCEEDED"
    assert message == "Deadline Exceeded"


def test_cancel(client: Any) -> None:
    """A request that is cancelled is over at once, and the next one is served."""
    answers: queue.Queue[Any] = queue.Queue(maxsize=10)
    slow = [tensor("INPUT0", np.array([[1]], np.int32), "INT32")]
    future = client.async_infer(
        "custom_identity_int32", slow, lambda result, error: answers.put(error or result)
    )
    future.cancel()
    assert "Locally cancelled by application!" in str(answers.get(timeout=WAIT_S))
    client.infer("parameter", [tensor("INPUT0", ONE, "FP32")])


def test_error_ends_the_stream(client: Any) -> None:
    """With triton_grpc_error, an error of the model ends the stream with its status."""
    for headers, is_ended in ((None, False), ({"triton_grpc_error": "true"}, True)):
        answers: queue.Queue[Any] = queue.Queue(maxsize=10)
        client.start_stream(
            lambda result, error, to=answers: to.put(error or result), headers=headers
        )
        values = np.ones((1, 2), np.float32)
        for _ in range(2):  # every second one fails
            client.async_stream_infer("execute_grpc_error", [tensor("IN", values, "FP32")])
        first, second = answers.get(timeout=WAIT_S), answers.get(timeout=WAIT_S)
        assert first.as_numpy("OUT").tolist() == values.tolist()
        assert (second.status() is not None) == is_ended, second
        client.stop_stream()
    assert second.status() == str(grpc.StatusCode.INTERNAL)
