"""The examples of sequences: by number and by text, over calls and streams, side by side."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from example import connect, refusal, tensor

__all__ = ["connect"]
VALUES = [11, 7, 5, 3, 2, 0, 1]
WAIT_S = 30.0
Id = int | str


@contextmanager
def streaming(client: Any) -> Iterator[Any]:
    """Open the client's stream and give what takes its next answer."""
    answers: queue.Queue[Any] = queue.Queue(maxsize=1000)
    client.start_stream(lambda result, error: answers.put(error or result))
    yield lambda: answers.get(timeout=WAIT_S)
    client.stop_stream()


def steps(values: list[int]) -> Iterator[tuple[Any, dict[str, bool]]]:
    """Give inputs and flags of each request of a sequence."""
    for index, value in enumerate(values):
        flags = {"sequence_start": index == 0, "sequence_end": index == len(values) - 1}
        yield [tensor("INPUT", np.array([[value]], np.int32), "INT32")], flags


def number(result: Any) -> int:
    """Return OUTPUT of an answer."""
    (value,) = result.as_numpy("OUTPUT").ravel()
    return int(value)


def dyna(values: list[int], sequence: Id) -> list[int]:
    """Return what simple_dyna_sequence answers to a sequence."""
    answers = [value + (index == 0) for index, value in enumerate(values)]
    answers[-1] += int(sequence)
    return answers


def added(values: list[int], sequence: Id) -> list[int]:
    """Return what simple_string_dyna_sequence answers to a sequence."""
    answers = [int(value) for value in np.cumsum(values)]
    answers[-1] += int(sequence)
    return answers


def test_unary(client: Any) -> None:
    """A sequence by calls: START shows in its first answer."""
    for sequence in (1001, "1002"):
        answers = [
            number(client.infer("simple_sequence", inputs, sequence_id=sequence, **flags))
            for inputs, flags in steps(VALUES)
        ]
        assert answers == [VALUES[0] + 1, *VALUES[1:]]


def test_streams(client: Any) -> None:
    """Two sequences of one stream, number by number in turn, each get their own answers."""
    with streaming(client) as take:
        pairs = zip(steps(VALUES), steps([-value for value in VALUES]), strict=True)
        for pair in pairs:
            for sequence, (inputs, flags) in zip((1000, 1001), pair, strict=True):
                client.async_stream_infer(
                    "simple_sequence",
                    inputs,
                    request_id=str(sequence),
                    sequence_id=sequence,
                    **flags,
                )
        found: dict[str, list[int]] = {"1000": [], "1001": []}
        for _ in range(2 * len(VALUES)):
            answer = take()
            found[answer.get_response().id].append(number(answer))
    assert found["1000"] == [VALUES[0] + 1, *VALUES[1:]]
    assert found["1001"] == [1 - VALUES[0], *(-value for value in VALUES[1:])]


def test_dynamic(client: Any) -> None:
    """The model gets START, END and the number of the sequence."""
    with streaming(client) as take:
        for inputs, flags in steps(VALUES):
            client.async_stream_infer("simple_dyna_sequence", inputs, sequence_id=1007, **flags)
        assert [number(take()) for _ in VALUES] == dyna(VALUES, 1007)


def test_text_ids(client: Any) -> None:
    """Sequences by text keep what they have added up, each its own."""
    with streaming(client) as take:
        pairs = zip(steps(VALUES), steps([2 * value for value in VALUES]), strict=True)
        for pair in pairs:
            for sequence, (inputs, flags) in zip(("100", "200"), pair, strict=True):
                client.async_stream_infer(
                    "simple_string_dyna_sequence",
                    inputs,
                    request_id=sequence,
                    sequence_id=sequence,
                    **flags,
                )
        found: dict[str, list[int]] = {"100": [], "200": []}
        for _ in range(2 * len(VALUES)):
            answer = take()
            found[answer.get_response().id].append(number(answer))
    assert found["100"] == added(VALUES, "100")
    assert found["200"] == added([2 * value for value in VALUES], "200")


def test_refusals(client: Any) -> None:
    """No id, no START and an id of the wrong kind are refused in Triton's words."""
    inputs = [tensor("INPUT", np.array([[1]], np.int32), "INT32")]
    for model, options, expected in (
        ("simple_sequence", {}, "must specify a non-zero or non-empty correlation ID"),
        (
            "simple_sequence",
            {"sequence_id": 7777},
            "inference request for sequence 7777 to model 'simple_sequence' must specify the START",
        ),
        ("simple_dyna_sequence", {"sequence_id": "text", "sequence_start": True}, ""),
    ):
        status, message = refusal(
            lambda name=model, more=options: client.infer(name, inputs, **more)
        )
        assert (status, expected in message) == ("INVALID_ARGUMENT", True), (status, message)
