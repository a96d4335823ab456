"""ModelStreamInfer: many requests at once on one call, answers in the order of the requests."""

import threading
from typing import Protocol

from service.errors import RequestError, ShuttingDown
from service.inference.request import Outcome, Request
from service.inference.sequences.engine import SequenceEngine
from service.rpc.bundles import ENDS_ON_ERROR
from service.rpc.codec import stream_refusal
from service.rpc.infer import InferService
from service.rpc.served import ServedModel
from service.rpc.status import status_of
from service.transport.seam import Call, Code


class StreamCall(Call, Protocol):
    """A streaming call that whoever keeps it can be told to forget."""

    def forget(self) -> None:
        """Note that nothing that happens to the call is of interest any more."""


class StreamInfer:
    """ModelStreamInfer: many requests at once, answers in the order of the requests.

    The call keeps the order, also with answers that the lane gives. Here are the requests that
    came as messages, to be cancelled if the caller leaves.
    """

    def __init__(self, service: InferService, call: StreamCall) -> None:
        self._service = service
        self._call = call
        self._ends_on_error = ENDS_ON_ERROR in call.metadata
        self._lock = threading.Lock()
        self._pending: dict[int, Request] = {}  # by ticket
        self._ends = False  # no more requests follow
        self._over = False
        self._engines: dict[SequenceEngine, None] = {}  # that keep states for this stream

    def message(self, ticket: int, message: bytes) -> None:
        """Take one request of the stream."""
        exchange = _StreamExchange(self, ticket)
        try:
            request = self._service.submit(message, self._call.deadline, exchange, self)
        except RequestError as error:
            self.answer(ticket, stream_refusal(exchange.request_id, str(error)))
            return
        engine = exchange.served.model.sequences
        with self._lock:
            over = self._over
            if not over:
                self._pending[ticket] = request
            if engine is not None and request.sequence and request.sequence.scope is self:
                self._engines[engine] = None
        if over:  # ended by an error of an earlier request in between
            request.cancel()
            self._release()
        elif request.ended:  # before it was noted
            self._settled(ticket)

    def half_closed(self) -> None:
        """End the stream after the last answer."""
        self._call.finish_answered(Code.OK)
        with self._lock:
            self._ends = True
            is_done = not self._pending
        if is_done:
            self._forget()

    def cancelled(self) -> None:
        """Free everything that the stream was waiting for."""
        with self._lock:
            self._over = True
            pending = list(self._pending.values())
            self._pending.clear()
        for request in pending:
            request.cancel()
        self._release()

    def drain(self) -> None:
        """End the stream as soon as what was accepted is answered."""
        self._call.finish_answered(*status_of(ShuttingDown()))

    def answer(self, ticket: int, reply: bytes) -> None:
        """Answer one request."""
        self._call.answer(ticket, reply)
        self._settled(ticket)

    def fail(
        self, ticket: int, request_id: str, code: Code, text: str, served: ServedModel
    ) -> None:
        """Answer a request that failed in execution."""
        if self._ends_on_error:
            self._call.finish(code, text)
            self.cancelled()
            self._service.free_shrunk()
        else:
            self.answer(ticket, served.encoder.stream_error(request_id, text))

    def _settled(self, ticket: int) -> None:
        with self._lock:
            self._pending.pop(ticket, None)
            is_done = self._ends and not self._pending
        if is_done:
            self._forget()

    def _forget(self) -> None:
        self._call.forget()
        self._release()

    def _release(self) -> None:
        """End the sequences that this stream is the scope of."""
        with self._lock:
            engines, self._engines = self._engines, {}
        for engine in engines:
            engine.release(self)


class _StreamExchange:
    """The answer of one request of a stream."""

    __slots__ = ("_stream", "_ticket", "request_id", "served")

    served: ServedModel

    def __init__(self, stream: StreamInfer, ticket: int) -> None:
        self._stream = stream
        self._ticket = ticket
        self.request_id = ""

    def ended(self, outcome: Outcome) -> None:
        """Put the answer into its place."""
        served = self.served
        try:
            if outcome.error is not None:
                raise outcome.error
            reply = served.encoder.stream(self.request_id, outcome.outputs or {})
        except Exception as error:  # noqa: BLE001  a fault in encoding must not end the scheduler
            code, text = status_of(error)
            served.record(code)
            self._stream.fail(self._ticket, self.request_id, code, text, served)
            return
        served.record(Code.OK)
        self._stream.answer(self._ticket, reply)
