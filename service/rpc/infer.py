"""ModelInfer and ModelStreamInfer: from a message to the scheduler, and back to the call."""

import threading
import time
from collections import deque
from typing import Protocol

from service.errors import RequestError, ShuttingDown, shown
from service.inference.model import Model
from service.inference.request import Outcome, Request
from service.inference.scheduler import Scheduler
from service.inference.validation import batch_rows
from service.lifecycle.manager import Manager
from service.observability.stats import ModelStats
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.codec import (
    ReplyEncoder,
    RequestDecoder,
    parse_request,
    scheduling_parameters,
    stream_refusal,
    wanted_outputs,
)
from service.rpc.status import status_of
from service.transport.seam import Call, Code


class ServedModel:
    """A model version with its codec."""

    __slots__ = ("decoder", "encoder", "model", "scheduler")

    def __init__(self, model: Model) -> None:
        self.model = model
        self.scheduler = model.scheduler
        self.decoder = RequestDecoder(model.name, model.signature)
        self.encoder = ReplyEncoder(model.name, model.version, model.signature)

    def record(self, code: Code) -> None:
        """Count one answer."""
        self.scheduler.stats.record_outcome(code.name)


class Exchange(Protocol):
    """One request and the place where its answer goes."""

    served: ServedModel

    def ended(self, outcome: Outcome) -> None:
        """Answer with the outcome."""


class InferService:
    """Accepts infer requests from messages, on the ingress thread."""

    def __init__(self, manager: Manager[Model], default_deadline_s: float) -> None:
        """default_deadline_s: for callers without one; 0: they wait for ever."""
        self.unknown = ModelStats()  # requests that name no model that is served
        self.draining = False
        self._manager = manager
        self._default_deadline_s = default_deadline_s
        self._served: dict[tuple[str, str], ServedModel] = {}
        self._touched: dict[Scheduler, None] = {}

    def flush(self) -> None:
        """Serve what was submitted since the last call; at the end of each burst."""
        touched, self._touched = self._touched, {}
        for scheduler in touched:
            scheduler.flush()

    def submit(
        self, message: ModelInferRequest, deadline: float | None, exchange: Exchange
    ) -> Request:
        """Hand a request to its model's scheduler, which ends the exchange.

        Raises RequestError if it is refused; the exchange is not ended then.
        """
        try:
            if self.draining:
                raise ShuttingDown
            served = self._find(message)
        except RequestError as error:
            self.refused(error)
            raise
        try:
            try:
                return self._submit(served, message, deadline, exchange)
            except ShuttingDown:
                # Its version was swapped out since it was found: its successor serves it.
                served = self._find(message)
                return self._submit(served, message, deadline, exchange)
        except RequestError as error:
            served.record(status_of(error)[0])
            raise

    def refused(self, error: RequestError) -> None:
        """Count a request that names no model that is served."""
        self.unknown.record_outcome(status_of(error)[0].name)

    def _find(self, message: ModelInferRequest) -> ServedModel:
        model = self._manager.find(message.model_name, message.model_version)
        key = (model.name, model.version)
        served = self._served.get(key)
        if served is None or served.model is not model:  # new, or loaded anew
            served = self._served[key] = ServedModel(model)
        return served

    def _submit(
        self,
        served: ServedModel,
        message: ModelInferRequest,
        deadline: float | None,
        exchange: Exchange,
    ) -> Request:
        name, signature = served.model.name, served.model.signature
        try:
            priority, timeout_us = scheduling_parameters(message)
            outputs = wanted_outputs(name, signature, message)
            inputs = served.decoder.decode(message)
            rows = batch_rows(name, signature, inputs)
        except RequestError as error:
            prefix = f"[request id: {shown(message.id) or '<id_unknown>'}] "
            raise type(error)(prefix + str(error)) from None
        if deadline is None and self._default_deadline_s:
            deadline = time.monotonic() + self._default_deadline_s
        exchange.served = served
        request = Request(
            inputs,
            outputs,
            rows=rows,
            on_end=exchange.ended,
            deadline=deadline,
            priority=priority,
            timeout_us=timeout_us,
        )
        served.scheduler.submit(request, deferred=True)
        self._touched[served.scheduler] = None
        return request


class UnaryInfer:
    """ModelInfer: one request, one answer."""

    def __init__(self, service: InferService) -> None:
        self._service = service
        self._pending: dict[Call, Request] = {}

    def request(self, call: Call, message: bytes) -> None:
        """Take a call; it is finished when the answer is there."""
        service = self._service
        try:
            try:
                parsed = parse_request(message)
            except RequestError as error:
                service.refused(error)
                raise
            exchange = _UnaryExchange(self._pending, call, parsed.id)
            request = service.submit(parsed, call.deadline, exchange)
        except RequestError as error:
            code, text = status_of(error)
            call.finish(code, text)
            return
        self._pending[call] = request
        if request.ended:  # before it was noted
            self._pending.pop(call, None)

    def cancelled(self, call: Call) -> None:
        """Free what a caller who has left was waiting for."""
        request = self._pending.pop(call, None)
        if request is not None:
            request.cancel()


class _UnaryExchange:
    """The answer of one ModelInfer call."""

    __slots__ = ("_call", "_pending", "_request_id", "served")

    served: ServedModel

    def __init__(self, pending: dict[Call, Request], call: Call, request_id: str) -> None:
        self._pending = pending
        self._call = call
        self._request_id = request_id

    def ended(self, outcome: Outcome) -> None:
        """Finish the call."""
        call, served = self._call, self.served
        self._pending.pop(call, None)
        try:
            if outcome.error is not None:
                raise outcome.error
            reply = served.encoder.unary(self._request_id, outcome.outputs or {})
        except Exception as error:  # noqa: BLE001  a fault in encoding must not end the scheduler
            code, text = status_of(error)
            served.record(code)
            call.finish(code, text)
            return
        served.record(Code.OK)
        timings = outcome.timings
        call.finish(
            Code.OK,
            reply=reply,
            trailers=(
                ("penstock-queue-us", str(timings.queue_ns // 1000)),
                ("penstock-compute-us", str(timings.compute_ns // 1000)),
            ),
        )


class StreamInfer:
    """ModelStreamInfer: many requests at once, answers in the order of the requests."""

    def __init__(self, service: InferService, call: Call) -> None:
        self._service = service
        self._call = call
        self._ends_on_error = ("triton_grpc_error", "true") in call.metadata
        self._lock = threading.Lock()
        self._slots: deque[_Slot] = deque()
        self._half_closed = False
        self._over = False

    def message(self, message: bytes) -> None:
        """Take one request of the stream."""
        slot = _Slot(self)
        with self._lock:
            if self._over:
                return
            self._slots.append(slot)
        try:
            try:
                parsed = parse_request(message)
            except RequestError as error:
                self._service.refused(error)
                raise
            slot.request_id = parsed.id
            slot.request = self._service.submit(parsed, self._call.deadline, slot)
        except RequestError as error:
            self.fill(slot, stream_refusal(slot.request_id, str(error)))
        else:
            if self._is_over():  # ended by an error of an earlier request in between
                slot.request.cancel()

    def half_closed(self) -> None:
        """End the stream after the last answer."""
        with self._lock:
            self._half_closed = True
            self._finish_if_done()

    def cancelled(self) -> None:
        """Free everything that the stream was waiting for."""
        with self._lock:
            self._over = True
            slots = list(self._slots)
            self._slots.clear()
        for slot in slots:
            if slot.request is not None:
                slot.request.cancel()

    def drain(self) -> None:
        """End the stream as soon as what was accepted is answered."""
        with self._lock:
            self._finish_if_done()

    def fail(self, slot: "_Slot", code: Code, text: str) -> None:
        """Answer a request that failed in execution."""
        if self._ends_on_error:
            with self._lock:
                if self._over:
                    return
                self._over = True
                self._call.finish(code, text)
            self.cancelled()
        else:
            self.fill(slot, slot.served.encoder.stream_error(slot.request_id, text))

    def fill(self, slot: "_Slot", reply: bytes) -> None:
        """Send a reply once everything before it is sent."""
        with self._lock:
            slot.reply = reply
            slots = self._slots
            while slots and (first := slots[0].reply) is not None:
                slots.popleft()
                self._call.send(first, settles=1)
            if not slots:
                self._finish_if_done()

    def _is_over(self) -> bool:
        return self._over

    def _finish_if_done(self) -> None:
        if self._slots or self._over:
            return
        if self._half_closed:
            self._over = True
            self._call.finish(Code.OK)
        elif self._service.draining:
            self._over = True
            self._call.finish(*status_of(ShuttingDown()))


class _Slot:
    """One request of a stream, and its place in the order of answers."""

    __slots__ = ("_stream", "reply", "request", "request_id", "served")

    served: ServedModel

    def __init__(self, stream: StreamInfer) -> None:
        self._stream = stream
        self.request: Request | None = None
        self.request_id = ""
        self.reply: bytes | None = None

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
            self._stream.fail(self, code, text)
            return
        served.record(Code.OK)
        self._stream.fill(self, reply)
