"""The example of decoupled answers: repeat_int32 gives as many as IN has elements."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from example import connect, refusal, tensor

__all__ = ["connect"]
WAIT_S = 30.0


def inputs(values: list[int], delay_ms: int = 0) -> list[Any]:
    """Return the inputs of repeat_int32."""
    return [
        tensor("IN", np.array(values, np.int32), "INT32"),
        tensor("DELAY", np.full(len(values), delay_ms, np.uint32), "UINT32"),
        tensor("WAIT", np.zeros(1, np.uint32), "UINT32"),
    ]


@contextmanager
def streaming(client: Any) -> Iterator[Any]:
    """Open the client's stream and give what takes its next answer."""
    answers: queue.Queue[Any] = queue.Queue(maxsize=1000)
    client.start_stream(lambda result, error: answers.put(error or result))
    yield lambda: answers.get(timeout=WAIT_S)
    client.stop_stream()


def is_final(answer: Any) -> bool:
    """Tell whether an answer is the last of its request."""
    return bool(answer.get_response().parameters["triton_final_response"].bool_param)


def test_repeat(client: Any) -> None:
    """Each element is an answer, in order, and nothing follows the last unasked."""
    values = [4, 2, 0, 1]
    with streaming(client) as take:
        client.async_stream_infer("repeat_int32", inputs(values, 1), request_id="0")
        answers = [take() for _ in values]
        client.async_stream_infer("simple", _pair(), request_id="1")
        assert take().get_response().id == "1"
    assert [int(a.as_numpy("OUT")[0]) for a in answers] == values
    assert [int(a.as_numpy("IDX")[0]) for a in answers] == list(range(len(values)))
    assert {a.get_response().id for a in answers} == {"0"}


def test_empty_final(client: Any) -> None:
    """An empty final answer comes when it is asked for, also where there is no other."""
    with streaming(client) as take:
        for values in ([1, 2], []):
            client.async_stream_infer(
                "repeat_int32", inputs(values), enable_empty_final_response=True
            )
            answers: list[Any] = []
            while not answers or not is_final(answers[-1]):
                answers.append(take())
            assert len(answers) == len(values) + 1
            assert not answers[-1].get_response().outputs


def test_square(client: Any) -> None:
    """square_int32 gives n answers of n."""
    with streaming(client) as take:
        client.async_stream_infer("square_int32", [tensor("IN", np.array([3], np.int32), "INT32")])
        assert [int(take().as_numpy("OUT")[0]) for _ in range(3)] == [3, 3, 3]


def test_unary_is_refused(client: Any) -> None:
    """ModelInfer does not serve a decoupled model, and says so in Triton's words."""
    status, message = refusal(lambda: client.infer("repeat_int32", inputs([1])))
    assert status == "UNIMPLEMENTED"
    assert message == "ModelInfer RPC doesn't support models with decoupled transaction policy"


def _pair() -> list[Any]:
    values = np.zeros((1, 16), np.int32)
    return [tensor("INPUT0", values, "INT32"), tensor("INPUT1", values, "INT32")]
