"""Gives IN back, and fails for every second request."""

from collections.abc import Mapping

from service.python_backend import Array, Context, Request


class Model:
    """See the module."""

    def __init__(self, context: Context) -> None:
        """Begin to count."""
        del context
        self._requests = 0

    def infer(self, request: Request) -> Mapping[str, Array]:
        """Answer or fail, in turn."""
        self._requests += 1
        if self._requests % 2 == 0:
            raise RuntimeError("An error occurred during execution")
        return {"OUT": request.inputs["IN"]}
