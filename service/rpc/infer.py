"""ModelInfer: from a message or a bundle to the scheduler, and back to the call."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Final

from service.errors import DeadlineUnmeetable, NotPermitted, QueueFull, RequestError, ShuttingDown
from service.inference.engine import Engine
from service.inference.model import Model
from service.inference.request import OnEnd, Parameter, Request
from service.lifecycle.manager import Manager
from service.observability.stats import ModelStats
from service.rpc.bundles import BundleAnswer, BundleRequest, FindStream
from service.rpc.codec import MAX_ID_BYTES, parse_request
from service.rpc.exchange import Exchange, Identified
from service.rpc.judging import Context, Judge
from service.rpc.methods import CATEGORY_OF, INFER
from service.rpc.options import DEFAULT_OPTIONS, InferOptions
from service.rpc.plan import Cut, Plan, Plans, cut_message
from service.rpc.regions import NO_REGIONS, Lease, Regions
from service.rpc.sequences import Placed, drain_sequences, goes_on
from service.rpc.served import ServedModels
from service.rpc.status import status_of
from service.rpc.step_plans import StepPlans
from service.rpc.teaching import Teacher
from service.rpc.traces import traced
from service.tensors import Signature, Tensors
from service.transport.seam import Arity, Bundle, Call, Lane

_LOG = logging.getLogger(__name__)
_CATEGORY: Final = CATEGORY_OF[INFER]
_NO_PARAMETERS: Final[Mapping[str, Parameter]] = {}


class InferService:
    """Accepts infer requests from messages, on one thread: the ingress thread, or HTTP's."""

    def __init__(
        self,
        manager: Manager[Model],
        default_deadline_s: float,
        regions: Regions = NO_REGIONS,
        options: InferOptions = DEFAULT_OPTIONS,
        *,
        unknown: ModelStats | None = None,
    ) -> None:
        """default_deadline_s: for callers without one; 0: they wait for ever.

        unknown: counts requests that name no model that is served.
        """
        restrictions = options.restrictions
        is_restricted = restrictions is not None and restrictions.covers(_CATEGORY)
        self._restrictions = restrictions if is_restricted else None
        self.unknown = unknown or ModelStats()
        self.draining = False
        self._manager = manager
        self._default_deadline_s = default_deadline_s
        self._judge = Judge(manager, regions, stream_state=options.stream_state)
        self._stream_state = options.stream_state
        self._forward = options.forward
        self._tracer = options.tracer
        self._taken_ns = 0  # when the request at hand came, where anything is traced
        self._served = ServedModels(manager)
        self._plans = Plans()
        self._touched: dict[Engine, None] = {}
        self._steps = StepPlans()
        self._teacher = Teacher()

    def use_lane(
        self, lane: Lane | None, arity_of: Callable[[str], Arity], find_stream: FindStream
    ) -> None:
        """Teach the transport's lane what is found about requests from now on."""
        # The lane knows nothing of headers.
        self._teacher.use(lane if self._forward is None else None, arity_of, find_stream)

    def drain(self, on_fewer: Callable[[], None]) -> None:
        """Refuse all but what goes on with a sequence; see SequenceEngine.drain."""
        self.draining = True
        drain_sequences(self._manager, on_fewer)

    def flush(self) -> None:
        """Serve what was submitted since the last call; at the end of each burst."""
        touched, self._touched = self._touched, {}
        for scheduler in touched:
            try:
                scheduler.flush()
            except Exception:  # noqa: BLE001  a fault with one model must not strand the others
                _LOG.exception("the batches of a burst could not be run here")

    def submit(
        self,
        message: bytes,
        deadline: float | None,
        exchange: Exchange,
        stream: object | None = None,
        *,
        forwarded: Mapping[str, Parameter] = _NO_PARAMETERS,
    ) -> Request:
        """Hand the request in a message to its model's scheduler, which ends the exchange.

        stream: that it came on, which may be a sequence. forwarded: parameters that come from
        headers of its call, and win over its own.
        Raises RequestError if it is refused; the exchange is not ended then.
        """
        if self._tracer.is_on:
            self._taken_ns = time.perf_counter_ns()
        cut = cut_message(message) if not forwarded else None
        if cut is not None and not self.draining:
            plan = self._plans.get(cut.head, self._manager.generation) or self._steps.find(
                cut, self._manager.generation, Placed(stream, self._stream_state)
            )
            if plan is not None and len(cut.request_id) <= MAX_ID_BYTES:
                inputs = plan.decode(message, cut)
                request_id = _text(cut.request_id)
                if inputs is not None and request_id is not None:
                    exchange.request_id = request_id
                    try:
                        return self._schedule(plan, inputs, deadline, exchange)
                    except ShuttingDown:
                        pass  # its version is being swapped out: judge it anew
                    except RequestError as error:
                        plan.served.record(status_of(error)[0])
                        raise
        return self._judged(message, cut, deadline, exchange, Context(stream, forwarded))

    def signature(self, name: str, version: str) -> Signature:
        """Return what a model takes and gives. Raises RequestError if it is not served."""
        try:
            return self._manager.find(name, version).signature
        except RequestError as error:
            self.unknown.record_outcome(status_of(error)[0].name)
            raise

    def refused(self, name: str, version: str, error: RequestError) -> RequestError:
        """Count a request that could not be made into a message; return what its caller is told."""
        try:
            model = self._manager.find(name, version)
        except RequestError as unknown:
            self.unknown.record_outcome(status_of(unknown)[0].name)
            return unknown
        model.scheduler.stats.record_outcome(status_of(error)[0].name)
        return error

    def check_caller(self, call: Identified) -> None:
        """Raise NotPermitted for a caller who may not infer."""
        if self._restrictions is not None:
            self._restrictions.check(_CATEGORY, call.metadata)

    def submit_bundle(self, bundle: Bundle) -> bool:
        """Hand the requests of a bundle to their model's scheduler, which answers them.

        False if they are to be judged one by one.
        """
        answer: BundleAnswer = bundle.plan
        plan = answer.plan
        if self.draining or plan.generation != self._manager.generation:
            self._teacher.unlearn(self._manager.generation)
            return False
        if self._restrictions is not None and not self._admits(bundle):
            return False
        request = BundleRequest(bundle, answer, self._default_deadline_s)
        scheduler = plan.served.scheduler
        if scheduler.serve_now(request):
            return True
        try:
            scheduler.submit(request, deferred=True)
        except RequestError:
            return False
        self._touched[scheduler] = None
        return True

    def forwarded(self, call: Call) -> Mapping[str, Parameter]:
        """Return the parameters that come from headers of a call. Raises InvalidRequest."""
        return _NO_PARAMETERS if self._forward is None else self._forward(call.metadata)

    def free_shrunk(self) -> None:
        """Free the bundles that fewer wait for since calls were finished early."""
        for bundle in self._teacher.shrunk():
            self.shrink(bundle)

    def shrink(self, bundle: Bundle) -> None:
        """Free what the callers who have left a bundle were waiting for."""
        waiting = bundle.waiting  # before the owner, which a bundle that is emptied has no more
        request: BundleRequest | None = bundle.owner
        if request is None:
            return  # it has just been answered, or split
        if waiting:
            request.plan.served.scheduler.shrink(request)
        else:
            request.cancel()

    def _admits(self, bundle: Bundle) -> bool:
        try:
            for call, _, _ in bundle.members():
                self.check_caller(call)
        except NotPermitted:
            return False
        return True

    def _judged(
        self,
        message: bytes,
        cut: Cut | None,
        deadline: float | None,
        exchange: Exchange,
        context: Context,
    ) -> Request:
        generation = self._manager.generation
        try:
            request = parse_request(message)
            exchange.request_id = request.id
            if self.draining and not goes_on(self._manager, request):
                raise ShuttingDown
            served = self._served.find(request.model_name, request.model_version)
        except RequestError as error:
            self.unknown.record_outcome(status_of(error)[0].name)
            raise
        try:
            exchange.begin(served)
            plan, inputs = self._judge.plan(served, request, context)
            try:
                accepted = self._schedule(plan, inputs, deadline, exchange)
            except ShuttingDown:
                # Its version was swapped out since it was found: its successor serves it.
                plan, inputs = self._judge.plan(
                    self._served.find(request.model_name, request.model_version), request, context
                )
                accepted = self._schedule(plan, inputs, deadline, exchange)
        except RequestError as error:
            served.record(status_of(error)[0])
            raise
        if cut is not None and plan.inputs and generation == self._manager.generation:
            self._remember(cut, plan)
        return accepted

    def _remember(self, cut: Cut, plan: Plan) -> None:
        """Let requests that look like one that was judged be recognised."""
        if plan.parameters.sequence is not None:
            self._steps.keep(cut, plan)
            return
        if not self._plans.keep(cut.head, plan):
            self._teacher.forget()  # with the same heads both know the same
        if not self._tracer.traces(plan.served.model.name):  # else each request is looked at
            self._teacher.teach(cut.head, plan, self.free_shrunk)

    def _schedule(
        self, plan: Plan, inputs: Tensors, deadline: float | None, exchange: Exchange
    ) -> Request:
        if deadline is None and self._default_deadline_s:
            deadline = time.monotonic() + self._default_deadline_s
        exchange.begin(plan.served)
        exchange.wants_empty_final = plan.parameters.wants_empty_final
        on_end: OnEnd = exchange.ended
        lease = trace = None
        if plan.windows:
            lease = Lease(plan.windows)
            on_end = lease.until(on_end)
        if self._tracer.is_on:
            model, name = plan.served.model, exchange.request_id
            trace, on_end = traced(self._tracer, model, inputs, name, self._taken_ns, on_end)
        request = Request(
            inputs,
            plan.outputs,
            rows=plan.rows,
            on_end=on_end,
            deadline=deadline,
            priority=plan.parameters.priority,
            timeout_us=plan.parameters.timeout_us,
            key=plan.key,
            parameters=plan.parameters.custom,
            sequence=plan.parameters.sequence,
            on_response=exchange.responded,
            id=exchange.request_id,
        )
        scheduler = plan.served.scheduler
        try:
            scheduler.submit(request, deferred=True)
        except BaseException as error:
            if lease is not None:
                lease.release()
            if trace is not None:
                self._tracer.discard(trace)
            if isinstance(error, QueueFull | DeadlineUnmeetable):
                scheduler.stats.record_failure(0)  # by the queue's policy, not by the request
            raise
        self._touched[scheduler] = None
        return request


def _text(encoded: bytes) -> str | None:
    """Return a request id; None if it is not UTF-8, which the parser is to refuse."""
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return None
