"""Inputs that may be left out, as Triton's tests of optional inputs have them."""

from typing import Any

import numpy as np
from example import connect, refusal, tensor

__all__ = ["connect"]
ONES = np.ones(3, np.float32)


def inputs(*numbers: int) -> list[Any]:
    """Return the inputs of these numbers, three ones each."""
    return [tensor(f"INPUT{number}", ONES, "FP32") for number in numbers]


def total(client: Any, model: str, *numbers: int) -> float:
    """Return the answer of a model that adds up all elements."""
    return float(client.infer(model, inputs(*numbers)).as_numpy("OUTPUT0")[0])


def test_required(client: Any) -> None:
    """A required input that is missing is named, in Triton's words."""
    assert total(client, "input_all_required", 0, 1, 2) == 9
    status, message = refusal(lambda: client.infer("input_all_required", inputs(0)))
    assert status == "INVALID_ARGUMENT"
    assert (
        "expected 3 inputs but got 1 inputs for model 'input_all_required'. Got input(s) "
        "['INPUT0'], but missing required input(s) ['INPUT1','INPUT2']" in message
    ), message


def test_optional(client: Any) -> None:
    """An optional input may be left out, a required one not."""
    assert total(client, "input_optional", 0, 1, 2) == 9
    assert total(client, "input_optional", 0, 1, 2, 3) == 12
    status, message = refusal(lambda: client.infer("input_optional", inputs(0)))
    assert status == "INVALID_ARGUMENT"
    assert "expected number of inputs between 3 and 4 but got 1" in message, message


def test_none(client: Any) -> None:
    """A request without any input is served where all are optional."""
    assert total(client, "input_all_optional") == 0
    assert total(client, "input_all_optional", 2) == 3
