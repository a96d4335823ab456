"""Bundles of requests from the transport's lane: one request to the scheduler, one answer for all.

What the lane recognises was judged before, so nothing is parsed or checked here. Whatever is out
of the ordinary (a plan that is out of date, a full queue, a server that drains) turns the bundle
back into single events, which go the way of every other request.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np

from service.errors import RequestCancelled
from service.inference.request import Outcome, Request
from service.rpc.codec import STREAM_TAIL
from service.rpc.plan import Plan
from service.rpc.served import ServedModel
from service.rpc.status import status_of
from service.tensors import BYTES, Tensors, to_raw
from service.transport.seam import Arity, Bundle, Call, Code

# Trailers of every unary answer, in microseconds.
QUEUE_US: Final = "penstock-queue-us"
COMPUTE_US: Final = "penstock-compute-us"
ENDS_ON_ERROR: Final = ("triton_grpc_error", "true")  # metadata of streams that want it so
_NO_INPUTS: Tensors = {}


class Failing(Protocol):
    """A stream as far as a failed request of it is concerned."""

    def fail(
        self, ticket: int, request_id: str, code: Code, text: str, served: ServedModel
    ) -> None:
        """Answer a request that failed in execution."""


FindStream = Callable[[Call], Failing | None]


def can_bundle(plan: Plan) -> bool:
    """Tell whether the lane can cut requests of a plan and join their answers."""
    model = plan.served.model
    has_strings = any(spec.datatype is BYTES for spec in model.signature.outputs)
    rows_can_be_counted = all(entry.size for entry in plan.inputs)  # by the bytes of contents
    return plan.may_bundle and model.may_bundle and rows_can_be_counted and not has_strings


class BundleRequest(Request):
    """The requests of a bundle as one. Its inputs are copied side by side when it is run."""

    __slots__ = ("_answer", "_bundle", "_claimed", "_parts")

    def __init__(self, bundle: Bundle, answer: "BundleAnswer", default_deadline_s: float) -> None:
        """default_deadline_s: for callers without a deadline; 0: they wait for ever."""
        plan = answer.plan
        deadlines = bundle.deadlines
        if deadlines is None and default_deadline_s:
            deadlines = (time.monotonic() + default_deadline_s,) * 2
        count = bundle.count
        super().__init__(
            _NO_INPUTS,
            plan.outputs,
            rows=count * plan.rows,
            on_end=self._ended,
            deadline=deadlines[1] if deadlines else None,
            priority=plan.parameters.priority,
            timeout_us=plan.parameters.timeout_us,
            key=plan.key,
            count=count,
            size=count * answer.request_bytes,
        )
        if deadlines:
            self.first_deadline = deadlines[0]
        self._bundle = bundle
        self._answer = answer
        self._claimed: Tensors = {}
        self._parts: Sequence[Request] = ()
        bundle.owner = self

    @property
    def plan(self) -> Plan:
        """What its requests ask for."""
        return self._answer.plan

    def strip(self) -> None:
        """Let go of what nobody waits for any more."""
        answer, before = self._answer, self._bundle.count
        self.count = count = self._bundle.strip()
        answer.left(before - count)
        self.rows = count * answer.plan.rows
        self.bytes = count * answer.request_bytes

    def claim(self) -> Tensors:
        """Return the inputs of the requests whose callers still wait."""
        if self._claimed:  # by a run that has failed
            if not self._bundle.waiting:
                self.cancel()
            return self._claimed
        self.strip()
        if not self.count:
            self.cancel()
            return _NO_INPUTS
        bundle, arrays = self._bundle, self._claimed
        for index, (name, dtype, row_shape) in enumerate(self._answer.inputs):
            contents = bundle.input(index)
            if not contents:  # it has been ended, and emptied, by another thread
                return _NO_INPUTS
            arrays[name] = np.frombuffer(contents, dtype).reshape(row_shape)
        bundle.release()
        return arrays

    def waits(self, queue_ns: int) -> Sequence[tuple[int, int]]:
        """Return how long it has waited for those who still wait; see Request.waits."""
        return ((queue_ns, self._bundle.waiting),)

    def singles(self) -> Sequence[Request]:
        """Return a request for each of its callers; its own end is theirs from now on."""
        if self.count == 1 or self.ended:
            return (self,)
        parts, rows = [], self.plan.rows
        for index, bundle in enumerate(self._bundle.split()):
            part = BundleRequest(bundle, self._answer, 0.0)
            part.arrived = self.arrived
            mine = slice(index * rows, (index + 1) * rows)
            part._claimed = {name: array[mine] for name, array in self._claimed.items()}
            parts.append(part)
        self._parts = parts
        return parts

    def _ended(self, outcome: Outcome) -> None:
        if not self._parts:
            self._answer.give(self._bundle, outcome)
            return
        for part in self._parts:
            part.fail(outcome.error or RequestCancelled())


class BundleAnswer:
    """Answers the bundles of one plan."""

    def __init__(
        self,
        plan: Plan,
        arity_of: Callable[[str], Arity],
        find_stream: FindStream,
        free_shrunk: Callable[[], None],
    ) -> None:
        """free_shrunk: frees what other bundles have of calls that were finished here."""
        self.plan = plan
        self.request_bytes = plan.size
        # Name, dtype and shape, where -1 stands for the rows of all requests.
        self.inputs = tuple(
            (entry.name, entry.dtype, (-1, *entry.shape[1:]) if plan.is_batched else entry.shape)
            for entry in plan.inputs
        )
        self._is_batched = plan.is_batched
        self._arity_of = arity_of
        self._find_stream = find_stream
        self._free_shrunk = free_shrunk

    def give(self, bundle: Bundle, outcome: Outcome) -> None:
        """Answer every request of the bundle with the outcome."""
        count = bundle.count
        try:
            if outcome.error is not None:
                raise outcome.error
            self._answer(bundle, outcome, count)
        except Exception as error:  # noqa: BLE001  a fault in encoding must not end the scheduler
            self._refuse(bundle, error)

    def left(self, count: int) -> None:
        """Count requests whose callers did not wait for the answer."""
        if count:
            self.plan.served.record(Code.CANCELLED, count)

    def _answer(self, bundle: Bundle, outcome: Outcome, count: int) -> None:
        encoder = self.plan.served.encoder
        outputs = outcome.outputs or {}
        first = (self.plan.rows,) if self._is_batched else ()
        skip = len(first)
        fixed = encoder.fixed(
            tuple([(name, first + array.shape[skip:]) for name, array in outputs.items()])
        )
        raws = [to_raw(encoder.datatype(name), array) for name, array in outputs.items()]
        encoder.check_size(len(fixed) + sum([len(raw) for raw in raws]) // count)
        timings = outcome.timings
        values = (timings.queue_ns // 1000, timings.compute_ns // 1000)
        waiting = bundle.waiting
        bundle.answer(fixed, raws, tail=STREAM_TAIL, trailers=values, work_ns=timings.infer_ns)
        if waiting:
            self.plan.served.record(Code.OK, waiting)
        self.left(count - waiting)

    def _refuse(self, bundle: Bundle, error: Exception) -> None:
        code, text = status_of(error)
        served = self.plan.served
        waiting = bundle.waiting
        if waiting:
            served.record(code, waiting)
        self.left(bundle.count - waiting)
        has_ended = False
        for call, ticket, request_id in bundle.members():
            if self._arity_of(call.method) is Arity.UNARY:
                call.finish(code, text)
            elif (stream := self._find_stream(call)) is not None:
                stream.fail(ticket, request_id, code, text, served)
            elif ENDS_ON_ERROR in call.metadata:
                call.finish(code, text)
                has_ended = True
            else:  # everything else of the stream is answered, and its end is on the way
                call.answer(ticket, served.encoder.stream_error(request_id, text))
        bundle.clear()
        if has_ended:
            self._free_shrunk()
