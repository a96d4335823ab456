"""Gives INPUT0 back, whatever its bytes."""

from collections.abc import Mapping

from service.python_backend import Array, Context, Request


class Model:
    """See the module."""

    def __init__(self, context: Context) -> None:
        """Need nothing."""

    def infer(self, request: Request) -> Mapping[str, Array]:
        """Answer with what came."""
        return {"OUTPUT0": request.inputs["INPUT0"]}
