"""ModelStreamInfer: many requests at once on one call.

Answers leave in the order of the requests, except those of decoupled models: a request to one has
any number of responses, which leave when they are there.
"""

import logging
import threading
from typing import Protocol

from service.errors import RequestError, ShuttingDown
from service.inference.model import Model
from service.inference.request import Outcome, Request
from service.inference.sequences.engine import SequenceEngine
from service.rpc.bundles import ENDS_ON_ERROR
from service.rpc.codec import stream_refusal
from service.rpc.infer import InferService
from service.rpc.responses import Responses
from service.rpc.served import ServedModel
from service.rpc.status import status_of
from service.tensors import Tensors
from service.transport.seam import Call, Code

_LOG = logging.getLogger(__name__)


class StreamCall(Call, Protocol):
    """A streaming call that whoever keeps it can be told to forget."""

    def forget(self) -> None:
        """Note that nothing that happens to the call is of interest any more."""


class StreamInfer:
    """One stream of requests.

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
        self._drains = False
        self._engines: dict[SequenceEngine, object] = {}  # of sequences that came, and their scope
        self._met: dict[tuple[str, str], Model] = {}  # the last, by name and version asked for

    def message(self, ticket: int, message: bytes) -> None:
        """Take one request of the stream."""
        call, exchange = self._call, _StreamExchange(self, ticket)
        try:
            forwarded = self._service.forwarded(call)
            request = self._service.submit(
                message, call.deadline, exchange, self, forwarded=forwarded
            )
        except RequestError as error:
            code, text = status_of(error)
            _LOG.debug("%s of %s: %s: %s", call.method, call.peer, code.name, text)
            exchange.refuse(stream_refusal(exchange.request_id, str(error)))
            return
        engine = exchange.served.model.sequences
        with self._lock:
            over = self._over
            if not over:
                self._pending[ticket] = request
            if engine is not None and request.sequence is not None:
                self._engines[engine] = request.sequence.scope
        if over:  # ended by an error of an earlier request in between
            request.cancel()
            self._release()
        elif request.ended:  # before it was noted
            self._settled(ticket)

    def meet(self, served: ServedModel) -> None:
        """Note what serves: what another version has kept for the same requests is lost."""
        model, key = served.model, (served.model.name, served.asked)
        engine, before = model.sequences, self._met.get(key)
        if engine is None or before is model:
            return
        self._met[key] = model
        old = before.sequences if before is not None else None
        if old is None:
            return
        engine.succeed(old, self)
        with self._lock:
            self._engines[engine] = self._engines.pop(old, self)

    def half_closed(self) -> None:
        """End the stream after the last answer."""
        self._call.finish_answered(Code.OK)
        with self._lock:
            self._ends = True
            is_done = not self._pending
            engines = list(self._engines)
        if is_done:
            self._forget()
        else:  # what waits may wait for a place that sequences of this very stream have
            for engine in engines:
                engine.finish(self)

    def cancelled(self) -> None:
        """Free everything that the stream was waiting for."""
        with self._lock:
            self._over = True
            pending = list(self._pending.values())
            self._pending.clear()
        for request in pending:
            request.cancel()
        self._release()

    def writable(self) -> None:
        """Let the models go on that wait because the caller has not read their responses."""
        with self._lock:
            pending = list(self._pending.values())
        for request in pending:
            request.resume()

    def drain(self) -> None:
        """End the stream as soon as what was accepted is answered.

        Not while sequences are in progress that it carries: it is called again when they are over.
        """
        with self._lock:
            if self._ends:  # by itself, and all its requests are answered
                return
            if self._drains or any(e.is_busy(scope) for e, scope in self._engines.items()):
                return
            self._drains = True
        self._call.finish_answered(*status_of(ShuttingDown()))

    def answer(self, ticket: int, reply: bytes) -> None:
        """Answer one request."""
        self._call.answer(ticket, reply)
        self._settled(ticket)

    def pass_over(self, ticket: int) -> None:
        """Give one request no answer at all."""
        self._call.detach(ticket)
        self._call.settle(1)
        self._settled(ticket)

    def fail(
        self, ticket: int, request_id: str, code: Code, text: str, served: ServedModel
    ) -> None:
        """Answer a request that failed in execution."""
        if not self.ends_on(code, text):
            self.answer(ticket, served.encoder.stream_error(request_id, text))

    def respond(self, reply: bytes) -> bool:
        """Send one of several responses. False: the next one is to wait for `writable`."""
        return self._call.send(reply)

    def end_responses(self, ticket: int, reply: bytes | None) -> None:
        """Send the last response of a request, or none, and settle it."""
        if reply is None:
            self._call.settle(1)
        else:
            self._call.send(reply, settles=1)
        self._settled(ticket)

    def ends_on(self, code: Code, text: str) -> bool:
        """End the stream because a request failed in execution, if its caller wants that."""
        if self._ends_on_error:
            self._call.finish(code, text)
            self.cancelled()
            self._service.free_shrunk()
        return self._ends_on_error

    def detach(self, ticket: int) -> None:
        """Let the responses to a request leave when they are there."""
        self._call.detach(ticket)

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
    """The answer of one request of a stream, or its responses."""

    __slots__ = (
        "_responses", "_stream", "_ticket", "request_id", "served", "wants_empty_final",
    )  # fmt: skip

    served: ServedModel
    wants_empty_final: bool

    def __init__(self, stream: StreamInfer, ticket: int) -> None:
        self._stream = stream
        self._ticket = ticket
        self._responses: Responses | None = None
        self.request_id = ""

    def begin(self, served: ServedModel) -> None:
        """Note which model answers: a decoupled one does so out of the order of requests."""
        self.served = served
        self._stream.meet(served)
        if served.model.decoupled and self._responses is None:
            self._stream.detach(self._ticket)
            self._responses = Responses(self._stream, self._ticket)

    def refuse(self, reply: bytes) -> None:
        """Answer with an error that was found before the request was scheduled."""
        if self._responses is None:
            self._stream.answer(self._ticket, reply)
        else:
            self._stream.end_responses(self._ticket, reply)

    def responded(self, outputs: Tensors) -> bool:
        """Give one of several responses. False: the next one is to wait for room."""
        if self._responses is None:
            raise TypeError("this model gives one answer")
        return self._responses.give(self.served, self.request_id, outputs)

    def ended(self, outcome: Outcome) -> None:
        """Put the answer into its place."""
        served = self.served
        if self._responses is not None:
            self._responses.end(
                served, self.request_id, outcome, empty_final=self.wants_empty_final
            )
            return
        try:
            if outcome.error is not None:
                raise outcome.error
            if outcome.outputs is not None:
                reply = served.encoder.stream(self.request_id, outcome.outputs)
            elif self.wants_empty_final:
                reply = served.encoder.stream_end(self.request_id)
            else:
                served.record(Code.OK)
                self._stream.pass_over(self._ticket)
                return
        except Exception as error:  # noqa: BLE001  a fault in encoding must not end the scheduler
            code, text = status_of(error)
            served.record(code)
            self._stream.fail(self._ticket, self.request_id, code, text, served)
            return
        served.record(Code.OK)
        self._stream.answer(self._ticket, reply)
