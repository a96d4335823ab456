"""ModelInfer: one request, one answer."""

import logging

from service.errors import RequestError, Unsupported
from service.inference.request import Outcome, Request
from service.rpc.bundles import COMPUTE_US, QUEUE_US
from service.rpc.infer import InferService
from service.rpc.served import ServedModel
from service.rpc.status import status_of
from service.tensors import Tensors
from service.transport.seam import Call, Code

_LOG = logging.getLogger(__name__)


class UnaryInfer:
    """ModelInfer: one request, one answer."""

    def __init__(self, service: InferService) -> None:
        self._service = service
        self._pending: dict[Call, Request] = {}

    def request(self, call: Call, message: bytes) -> None:
        """Take a call; it is finished when the answer is there."""
        exchange = _UnaryExchange(self._pending, call)
        try:
            self._service.check_caller(call)
            forwarded = self._service.forwarded(call)
            request = self._service.submit(message, call.deadline, exchange, forwarded=forwarded)
        except RequestError as error:
            code, text = status_of(error)
            _LOG.debug("%s of %s: %s: %s", call.method, call.peer, code.name, text)
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

    __slots__ = ("_call", "_pending", "request_id", "served", "wants_empty_final")

    served: ServedModel
    wants_empty_final: bool  # of no meaning here

    def __init__(self, pending: dict[Call, Request], call: Call) -> None:
        self._pending = pending
        self._call = call
        self.request_id = ""

    def begin(self, served: ServedModel) -> None:
        """Note which model answers. Raises Unsupported if it may give several answers, or none."""
        if served.model.decoupled:
            raise Unsupported(
                "ModelInfer RPC doesn't support models with decoupled transaction policy"
            )
        self.served = served

    def responded(self, outputs: Tensors) -> bool:
        """Refuse: there is one answer, the outcome."""
        del outputs
        raise TypeError("a unary call has one answer")

    def ended(self, outcome: Outcome) -> None:
        """Finish the call."""
        call, served = self._call, self.served
        self._pending.pop(call, None)
        try:
            if outcome.error is not None:
                raise outcome.error
            reply = served.encoder.unary(self.request_id, outcome.outputs or {})
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
                (QUEUE_US, str(timings.queue_ns // 1000)),
                (COMPUTE_US, str(timings.compute_ns // 1000)),
            ),
        )
