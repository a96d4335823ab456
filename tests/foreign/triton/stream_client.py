"""What tritonclient's blocking client gets over ModelStreamInfer, one function a case.

Run in an environment of its own by test_programs.py.
"""

import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from simple import pair, simple_inputs, tensor  # type: ignore[import-not-found]  # beside this file
from tritonclient.utils import InferenceServerException

WAIT_S = 30.0


class Answers:
    """Collects (result, error) of a stream's callback."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[Any, Any]] = queue.Queue(maxsize=10_000)

    def __call__(self, result: Any, error: Any) -> None:
        """Take what the stream calls back with."""
        self._queue.put((result, error))

    def take(self) -> tuple[Any, Any]:
        """Return the oldest answer, waiting for it."""
        return self._queue.get(timeout=WAIT_S)

    def count(self) -> int:
        """Return how many answers wait."""
        return self._queue.qsize()


@contextmanager
def streaming(client: Any, **options: Any) -> Iterator[Answers]:
    """Open the client's stream and half-close it at the end."""
    answers = Answers()
    client.start_stream(answers, **options)
    yield answers
    client.stop_stream()


def connect(address: str) -> Any:
    """Return the client of a case."""
    return grpcclient.InferenceServerClient(address)


def test_order_and_ids(client: Any) -> None:
    """Two hundred requests sent at once are answered in their order, each with its id."""
    pairs = [pair(rows=1 + index % 5) for index in range(200)]
    with streaming(client) as answers:
        for index, (first, second) in enumerate(pairs):
            client.async_stream_infer(
                "simple",
                simple_inputs(first, second),
                request_id=str(index),
            )
        for index, (first, second) in enumerate(pairs):
            result, error = answers.take()
            assert error is None, error
            assert result.get_response().id == str(index)
            np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), first + second)


def test_slow_before_fast(client: Any) -> None:
    """A fast answer waits for the slow one that was asked for before it."""
    slow = [tensor("X", np.array([[200]], np.int64), "INT64")]
    with streaming(client) as answers:
        client.async_stream_infer("slow", slow, request_id="slow")
        client.async_stream_infer("simple", simple_inputs(*pair()), request_id="fast")
        outcomes = [answers.take() for _ in range(2)]
    assert [error for _, error in outcomes] == [None, None]
    assert [result.get_response().id for result, _ in outcomes] == ["slow", "fast"]


def test_half_close_keeps_the_answers(client: Any) -> None:
    """A stream that is half-closed at once still gives every answer."""
    with streaming(client) as answers:
        for _ in range(50):
            client.async_stream_infer("simple", simple_inputs(*pair()))
    assert answers.count() == 50
    assert all(answers.take()[1] is None for _ in range(50))


def test_error_leaves_the_stream_open(client: Any) -> None:
    """A wrong request is answered in its place by an error, and the next ones are served."""
    narrow = np.zeros((1, 15), np.int32)
    with streaming(client) as answers:
        client.async_stream_infer("simple", simple_inputs(*pair()), request_id="1")
        client.async_stream_infer("simple", simple_inputs(narrow, narrow), request_id="2")
        client.async_stream_infer("absent", simple_inputs(*pair()), request_id="3")
        client.async_stream_infer("simple", simple_inputs(*pair()), request_id="4")
        outcomes = [answers.take() for _ in range(4)]
    assert [error is None for _, error in outcomes] == [True, False, False, True]
    assert outcomes[0][0].get_response().id == "1"
    assert "unexpected shape for input 'INPUT0'" in outcomes[1][1].message()
    assert outcomes[2][1].message() == "Request for unknown model: 'absent' is not found"
    assert outcomes[3][0].get_response().id == "4"


def test_models_side_by_side(client: Any) -> None:
    """One stream serves several models, in the order of the requests."""
    values = np.array([[b"x\0", b""]], dtype=np.object_)
    numbers = np.array([[1, 2]], np.float16)
    with streaming(client) as answers:
        for _ in range(10):
            client.async_stream_infer("identity_bytes", [tensor("X", values, "BYTES")])
            client.async_stream_infer("identity_fp16", [tensor("X", numbers, "FP16")])
        for _ in range(10):
            text, number = answers.take()[0], answers.take()[0]
            assert text.as_numpy("Y").tolist() == values.tolist()
            assert number.as_numpy("Y").tolist() == numbers.tolist()


def test_final_response(client: Any) -> None:
    """The answer says that it is the last of its request, and no empty one follows."""
    with streaming(client) as answers:
        client.async_stream_infer(
            "simple",
            simple_inputs(*pair()),
            enable_empty_final_response=True,
        )
        result, error = answers.take()
    assert error is None, error
    assert result.get_response().parameters["triton_final_response"].bool_param
    assert answers.count() == 0


def test_compressed_stream(client: Any) -> None:
    """A stream of compressed requests is answered like others."""
    first, second = np.zeros((2, 8, 16), np.int32)
    with streaming(client, compression_algorithm="gzip") as answers:
        for _ in range(10):
            client.async_stream_infer("simple", simple_inputs(first, second))
        for _ in range(10):
            result, error = answers.take()
            assert error is None, error
            np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), first - second)


def test_stream_deadline(client: Any) -> None:
    """stream_timeout ends the stream with DEADLINE_EXCEEDED, and the server goes on."""
    slow = [tensor("X", np.array([[1000]], np.int64), "INT64")]
    with streaming(client, stream_timeout=0.2) as answers:
        with suppress(InferenceServerException):  # the deadline may be over already
            client.async_stream_infer("slow", slow)
        _, error = answers.take()
        assert "DEADLINE_EXCEEDED" in str(error), error
    client.infer("simple", simple_inputs(*pair()))


def test_cancelled_stream(client: Any) -> None:
    """A stream that its client cancels ends at once, and the next one is served."""
    answers = Answers()
    client.start_stream(answers)
    slow = [tensor("X", np.array([[1000]], np.int64), "INT64")]
    for _ in range(5):
        client.async_stream_infer("slow", slow)
    client.stop_stream(cancel_requests=True)
    with streaming(client) as later:
        client.async_stream_infer("simple", simple_inputs(*pair()), request_id="after")
        result, error = later.take()
    assert error is None, error
    assert result.get_response().id == "after"
