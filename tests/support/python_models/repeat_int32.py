"""Gives the elements of IN one by one, each after its DELAY in ms, and takes others after WAIT."""

from collections.abc import Iterator, Mapping

import numpy as np

from service.errors import dims
from service.python_backend import Array, Context, InvalidInput, Request


class Model:
    """See the module."""

    def __init__(self, context: Context) -> None:
        """Need nothing."""

    def infer(self, request: Request) -> Iterator[Mapping[str, Array]]:
        """Give a response an element: the element, and its place."""
        values, delays_ms = request.inputs["IN"], request.inputs["DELAY"]
        if values.shape != delays_ms.shape:
            raise InvalidInput(
                "expected IN and DELAY shape to match, got "
                f"{dims(values.shape)} and {dims(delays_ms.shape)}"
            )
        for index, (value, delay_ms) in enumerate(zip(values, delays_ms, strict=True)):
            if delay_ms:
                request.sleep(int(delay_ms) / 1000)
            yield {"OUT": np.array([value], np.int32), "IDX": np.array([index], np.uint32)}
