"""The responses of one request to a decoupled model, on a stream.

They are given by the model's thread; the end may come from any other one, and nothing follows it.
"""

import threading
from typing import Protocol

from service.inference.request import Outcome
from service.rpc.served import ServedModel
from service.rpc.status import status_of
from service.tensors import Tensors
from service.transport.seam import Code


class Stream(Protocol):
    """Where the responses go."""

    def respond(self, reply: bytes) -> bool:
        """Send one of several responses. False: the next one is to wait for room."""

    def end_responses(self, ticket: int, reply: bytes | None) -> None:
        """Send the last response of a request, or none, and settle it."""

    def ends_on(self, code: Code, text: str) -> bool:
        """End the stream because a request failed in execution, if its caller wants that."""


class Responses:
    """Gives the responses of one request, in order, and its end once."""

    __slots__ = ("_has_ended", "_lock", "_stream", "_ticket")

    def __init__(self, stream: Stream, ticket: int) -> None:
        self._stream = stream
        self._ticket = ticket
        self._lock = threading.Lock()
        self._has_ended = False

    def give(self, served: ServedModel, request_id: str, outputs: Tensors) -> bool:
        """Send a response that is not the last. False: the next one is to wait for room.

        Raises InvalidRequest if it is larger than a message can be.
        """
        reply = served.encoder.stream(request_id, outputs, final=False)
        with self._lock:
            return self._has_ended or self._stream.respond(reply)

    def end(
        self, served: ServedModel, request_id: str, outcome: Outcome, *, empty_final: bool
    ) -> None:
        """Send what ends the responses. empty_final: also if there is nothing to send."""
        with self._lock:  # a response that is being given goes before
            self._has_ended = True
        code, reply = Code.OK, None
        try:
            if outcome.error is not None:
                raise outcome.error
            if outcome.outputs is not None:
                reply = served.encoder.stream(request_id, outcome.outputs)
            elif empty_final:
                reply = served.encoder.stream_end(request_id)
        except Exception as error:  # noqa: BLE001  a fault in encoding must not end the model
            code, text = status_of(error)
            if self._stream.ends_on(code, text):
                served.record(code)
                return
            reply = served.encoder.stream_error(request_id, text)
        served.record(code)
        self._stream.end_responses(self._ticket, reply)
