"""Gives INPUT0 back after execute_delay_ms of its configuration, or of the request's parameters."""

from collections.abc import Mapping

from service.python_backend import Array, Context, Request


class Model:
    """See the module."""

    def __init__(self, context: Context) -> None:
        """Read the delay."""
        self._delay_ms = float(context.parameters.get("execute_delay_ms", "0"))

    def infer(self, request: Request) -> Mapping[str, Array]:
        """Wait, unless the caller leaves, and answer."""
        delay_ms = float(request.parameters.get("execute_delay_ms", self._delay_ms))
        request.sleep(delay_ms / 1000)
        return {"OUTPUT0": request.inputs["INPUT0"]}
