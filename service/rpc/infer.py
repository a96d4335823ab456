"""ModelInfer and ModelStreamInfer: from a message to the scheduler, and back to the call."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from service.errors import RequestError, ShuttingDown, shown
from service.inference.model import Model
from service.inference.request import Outcome, Request
from service.inference.validation import batch_rows
from service.lifecycle.manager import Manager
from service.observability.stats import ModelStats
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.codec import (
    ReplyEncoder,
    decode_inputs,
    parse_request,
    scheduling_parameters,
    stream_refusal,
    wanted_outputs,
)
from service.rpc.status import status_of
from service.transport.seam import Call, Code


class InferService:
    """Accepts infer requests from messages. Methods may be called from any thread."""

    def __init__(self, manager: Manager[Model], default_deadline_s: float) -> None:
        """default_deadline_s: for callers without one; 0: they wait for ever."""
        self.unknown = ModelStats()  # requests that name no model that is served
        self._manager = manager
        self._default_deadline_s = default_deadline_s
        self._encoders: dict[tuple[str, str], tuple[Model, ReplyEncoder]] = {}
        self.draining = False

    def parse(self, message: bytes) -> ModelInferRequest:
        """Return the request in a message. Raises InvalidRequest."""
        return parse_request(message)

    def submit(
        self,
        message: ModelInferRequest,
        deadline: float | None,
        on_end: Callable[[Model, Outcome], None],
    ) -> Request:
        """Hand a request to its model's scheduler; on_end is called with the outcome.

        Raises RequestError if it is refused; on_end is not called then.
        """
        if self.draining:
            raise ShuttingDown
        model = self._manager.find(message.model_name, message.model_version)
        try:
            try:
                return self._submit(model, message, deadline, on_end)
            except ShuttingDown:
                # Its version was swapped out since `find`: the one that took over serves it.
                model = self._manager.find(message.model_name, message.model_version)
                return self._submit(model, message, deadline, on_end)
        except RequestError as error:
            model.scheduler.stats.record_outcome(status_of(error)[0].name)
            raise

    def encoder(self, model: Model) -> ReplyEncoder:
        """Return the encoder of a version."""
        key = (model.name, model.version)
        known = self._encoders.get(key)
        if known is None or known[0] is not model:  # new, or loaded anew
            known = (model, ReplyEncoder(model.name, model.version, model.signature))
            self._encoders[key] = known
        return known[1]

    def _submit(
        self,
        model: Model,
        message: ModelInferRequest,
        deadline: float | None,
        on_end: Callable[[Model, Outcome], None],
    ) -> Request:
        name, signature = model.name, model.signature
        priority, timeout_us = scheduling_parameters(message)
        outputs = wanted_outputs(name, signature, message)
        try:
            inputs = decode_inputs(name, signature, message)
            rows = batch_rows(name, signature, inputs)
        except RequestError as error:
            prefix = f"[request id: {shown(message.id) or '<id_unknown>'}] "
            raise type(error)(prefix + str(error)) from None
        if deadline is None and self._default_deadline_s:
            deadline = time.monotonic() + self._default_deadline_s
        request = Request(
            inputs,
            outputs,
            rows=rows,
            on_end=lambda outcome: on_end(model, outcome),
            deadline=deadline,
            priority=priority,
            timeout_us=timeout_us,
        )
        model.scheduler.submit(request)
        return request


def _record(model: Model, code: Code) -> None:
    model.scheduler.stats.record_outcome(code.name)


class UnaryInfer:
    """ModelInfer: one request, one answer."""

    def __init__(self, service: InferService) -> None:
        self._service = service
        self._pending: dict[Call, Request] = {}

    def request(self, call: Call, message: bytes) -> None:
        """Take a call; it is finished when the answer is there."""
        service = self._service
        parsed: ModelInferRequest | None = None
        ended = False

        def on_end(model: Model, outcome: Outcome) -> None:
            nonlocal ended
            ended = True
            self._pending.pop(call, None)
            self._finish(call, model, parsed.id if parsed else "", outcome)

        try:
            parsed = service.parse(message)
            request = service.submit(parsed, call.deadline, on_end)
        except RequestError as error:
            code, text = status_of(error)
            call.finish(code, text)
            return
        self._pending[call] = request
        if ended:  # it ended before it was noted
            self._pending.pop(call, None)

    def cancelled(self, call: Call) -> None:
        """Free what a caller who has left was waiting for."""
        request = self._pending.pop(call, None)
        if request is not None:
            request.cancel()

    def _finish(self, call: Call, model: Model, request_id: str, outcome: Outcome) -> None:
        try:
            if outcome.error is not None:
                raise outcome.error
            reply = self._service.encoder(model).unary(request_id, outcome.outputs or {})
        except Exception as error:  # noqa: BLE001  a fault in encoding must not end the scheduler
            code, text = status_of(error)
            _record(model, code)
            call.finish(code, text)
            return
        _record(model, Code.OK)
        timings = outcome.timings
        call.finish(
            Code.OK,
            reply=reply,
            trailers=(
                ("penstock-queue-us", str(timings.queue_ns // 1000)),
                ("penstock-compute-us", str(timings.compute_ns // 1000)),
            ),
        )


@dataclass(slots=True, eq=False)
class _Slot:
    """The place of one request in the order of answers."""

    request: Request | None = None
    reply: bytes | None = None
    request_id: str = field(default="")


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
        slot = _Slot()
        with self._lock:
            if self._over:
                return
            self._slots.append(slot)
        try:
            parsed = self._service.parse(message)
            slot.request_id = parsed.id
            slot.request = self._service.submit(
                parsed,
                self._call.deadline,
                lambda model, outcome: self._ended(slot, model, outcome),
            )
        except RequestError as error:
            self._fill(slot, stream_refusal(slot.request_id, str(error)))
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
            if not self._slots and not self._over:
                self._over = True
                code, text = status_of(ShuttingDown())
                self._call.finish(code, text)

    def _is_over(self) -> bool:
        return self._over

    def _ended(self, slot: _Slot, model: Model, outcome: Outcome) -> None:
        encoder = self._service.encoder(model)
        try:
            if outcome.error is not None:
                raise outcome.error
            reply = encoder.stream(slot.request_id, outcome.outputs or {})
        except Exception as error:  # noqa: BLE001  a fault in encoding must not end the scheduler
            code, text = status_of(error)
            _record(model, code)
            if self._ends_on_error:
                self._end_with(code, text)
                return
            reply = encoder.stream_error(slot.request_id, text)
        else:
            _record(model, Code.OK)
        self._fill(slot, reply)

    def _fill(self, slot: _Slot, reply: bytes) -> None:
        with self._lock:
            slot.reply = reply
            while self._slots and (first := self._slots[0].reply) is not None:
                self._slots.popleft()
                self._call.send(first, settles=1)
            self._finish_if_done()

    def _end_with(self, code: Code, text: str) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
            self._call.finish(code, text)
        self.cancelled()

    def _finish_if_done(self) -> None:
        if self._slots or self._over:
            return
        if self._half_closed:
            self._over = True
            self._call.finish(Code.OK)
        elif self._service.draining:
            self._over = True
            code, text = status_of(ShuttingDown())
            self._call.finish(code, text)
