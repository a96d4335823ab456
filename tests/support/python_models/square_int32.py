"""Gives n responses of n."""

from collections.abc import Iterator, Mapping

from service.python_backend import Array, Context, Request


class Model:
    """See the module."""

    def __init__(self, context: Context) -> None:
        """Need nothing."""

    def infer(self, request: Request) -> Iterator[Mapping[str, Array]]:
        """Give IN, as often as it says."""
        value = request.inputs["IN"]
        for _ in range(int(value[0])):
            yield {"OUT": value}
