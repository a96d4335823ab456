"""Gives the parameters of the request as texts."""

from collections.abc import Mapping

from service.python_backend import Array, Context, Request, texts


class Model:
    """See the module."""

    def __init__(self, context: Context) -> None:
        """Need nothing."""

    def infer(self, request: Request) -> Mapping[str, Array]:
        """Give names and values, in the order of the names."""
        parameters = sorted(request.parameters.items())
        return {
            "key": texts([name for name, _ in parameters]),
            "value": texts([str(value) for _, value in parameters]),
        }
