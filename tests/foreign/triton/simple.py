"""Requests to the model `simple`, and what the cases beside this file share."""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

RNG = np.random.default_rng(20)


def tensor(name: str, array: np.ndarray, datatype: str) -> Any:
    """Return an input of a request."""
    value = grpcclient.InferInput(name, list(array.shape), datatype)
    value.set_data_from_numpy(array)
    return value


def pair(rows: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return random values for simple's two inputs."""
    first, second = RNG.integers(-1000, 1000, (2, rows, 16), np.int32)
    return first, second


def simple_inputs(first: np.ndarray, second: np.ndarray) -> list[Any]:
    """Return the inputs of a request to simple."""
    return [tensor("INPUT0", first, "INT32"), tensor("INPUT1", second, "INT32")]


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Return status and message of the error that call must raise."""
    try:
        call()
    except InferenceServerException as error:
        return error.status(), error.message()
    raise AssertionError("the server accepted what it should refuse")


async def async_refusal(answer: Awaitable[object]) -> tuple[str, str]:
    """Return status and message of the error that awaiting must raise."""
    try:
        await answer
    except InferenceServerException as error:
        return error.status(), error.message()
    raise AssertionError("the server accepted what it should refuse")
