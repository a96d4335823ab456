"""What the programs beside this file share: tensors, refusals, and the client itself."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

REPOSITORY = Path(os.environ["EXAMPLES"])  # what the server has its models from
FIRST = np.arange(16, dtype=np.int32).reshape(1, 16)
SECOND = np.full((1, 16), -1, np.int32)


def connect(address: str, **options: Any) -> Any:
    """Return the client of a case, which knows its address."""
    client = grpcclient.InferenceServerClient(address, **options)
    client.address = address
    return client


def tensor(name: str, array: np.ndarray, datatype: str) -> Any:
    """Return an input of a request."""
    value = grpcclient.InferInput(name, list(array.shape), datatype)
    value.set_data_from_numpy(array)
    return value


def pair(
    first: np.ndarray = FIRST, second: np.ndarray = SECOND, datatype: str = "INT32"
) -> list[Any]:
    """Return INPUT0 and INPUT1."""
    return [tensor("INPUT0", first, datatype), tensor("INPUT1", second, datatype)]


def outputs(*names: str, **options: Any) -> list[Any]:
    """Return requested outputs."""
    return [grpcclient.InferRequestedOutput(name, **options) for name in names]


def text(values: Sequence[object], shape: Sequence[int]) -> np.ndarray:
    """Return BYTES elements of these values as text."""
    flat = np.array([str(value).encode() for value in values], object)
    return flat.reshape(shape)


def expect_sums(result: Any, first: np.ndarray = FIRST, second: np.ndarray = SECOND) -> None:
    """Hold both outputs of a model like simple against what they should be."""
    sums, differences = result.as_numpy("OUTPUT0"), result.as_numpy("OUTPUT1")
    if sums.dtype == object:
        sums, differences = sums.astype(np.int64), differences.astype(np.int64)
    np.testing.assert_array_equal(sums, first + second)
    np.testing.assert_array_equal(differences, first - second)


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Return status and message of the error that call must raise."""
    try:
        call()
    except InferenceServerException as error:
        return str(error.status()).removeprefix("StatusCode."), error.message()
    raise AssertionError("the server accepted what it should refuse")
