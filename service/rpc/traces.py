"""TraceSetting, and requests that are traced."""

import logging
import time
from collections.abc import Mapping
from typing import Final

from service.errors import InvalidRequest, ModelNotReady, UnknownModel, Unsupported, shown
from service.inference.model import Model
from service.inference.request import OnEnd, Outcome
from service.lifecycle.manager import Manager
from service.observability.tracing import TENSORS, TIMESTAMPS, Trace, Tracer, Value
from service.pb.grpc_service_pb2 import TraceSettingRequest, TraceSettingResponse
from service.rpc.messages import parse
from service.rpc.methods import Answer
from service.tensors import Tensors

_LOG = logging.getLogger(__name__)
# Name of a setting in the protocol, its name in TraceSettings, its least and largest value.
_NUMBERS: Final = (
    ("trace_rate", "rate", 0, (1 << 32) - 1),
    ("trace_count", "count", -1, (1 << 31) - 1),
    ("log_frequency", "log_frequency", 0, (1 << 32) - 1),
)


class TraceService:
    """TraceSetting: settings of the server, and of models where they differ."""

    def __init__(self, tracer: Tracer, manager: Manager[Model]) -> None:
        self._tracer = tracer
        self._manager = manager

    @property
    def answers(self) -> Mapping[str, Answer]:
        """Return what answers each RPC; see methods.Service."""
        return {"TraceSetting": self.setting}

    def setting(self, message: bytes) -> bytes:
        """Answer TraceSetting: change what is given, then tell all. Raises RequestError."""
        request = parse(TraceSettingRequest, message)
        model = request.model_name
        if model:
            try:
                self._manager.find(model)
            except (UnknownModel, ModelNotReady):
                raise InvalidRequest(f"Request for unknown model : {shown(model)}") from None
        values = {key: tuple(setting.value) for key, setting in request.settings.items()}
        if "trace_file" in values:
            raise Unsupported("trace file location can not be updated through network protocol")
        if values:
            changes = _changes(values)
            self._tracer.update(model, changes)
            _LOG.info("trace settings of %s: %s", model or "all models", changes)
            if self._tracer.settings(model).is_on and not self._tracer.path:
                _LOG.warning("no request is traced without --trace-file")
        settings = self._tracer.settings(model)
        response = TraceSettingResponse()
        told = {
            "trace_level": settings.level or ("OFF",),
            "trace_rate": (str(settings.rate),),
            "trace_count": (str(settings.count),),
            "log_frequency": (str(settings.log_frequency),),
            "trace_file": (self._tracer.path,),
            "trace_mode": ("triton",),
        }
        for key, texts in told.items():
            response.settings[key].value.extend(texts)
        return response.SerializeToString()


def traced(
    tracer: Tracer, model: Model, inputs: Tensors, request_id: str, taken_ns: int, on_end: OnEnd
) -> tuple[Trace | None, OnEnd]:
    """Return the trace of a request, if it has one, and what is told the end of the request.

    A request that is refused before its end has a trace to be discarded.
    taken_ns: when the request was taken, of perf_counter_ns.
    """
    trace = tracer.sample(model.name, model.version)
    if trace is None:
        return None, on_end
    trace.request_id = request_id
    trace.note("REQUEST_START", taken_ns)
    queued = time.perf_counter_ns()
    trace.note("QUEUE_START", queued)
    trace.keep("TENSOR_QUEUE_INPUT", inputs, model.signature.inputs)

    def ended(outcome: Outcome) -> None:
        is_wanted = tracer.count(trace)  # before its caller is answered, who may ask for the count
        if is_wanted and outcome.outputs is not None:
            trace.keep("TENSOR_BACKEND_OUTPUT", outcome.outputs, model.signature.outputs)
        on_end(outcome)
        if is_wanted:
            _note_compute(trace, queued, outcome)
            trace.note("REQUEST_END", time.perf_counter_ns())
            tracer.write(trace)

    return trace, ended


def _note_compute(trace: Trace, queued: int, outcome: Outcome) -> None:
    timings = outcome.timings
    if outcome.error is not None or not timings.compute_ns:
        return
    started = queued + timings.queue_ns
    assembled = started + timings.input_ns
    trace.note("COMPUTE_START", started)
    trace.note("COMPUTE_INPUT_END", assembled)
    trace.note("COMPUTE_OUTPUT_START", assembled + timings.infer_ns)
    trace.note("COMPUTE_END", started + timings.compute_ns)


def _changes(values: Mapping[str, tuple[str, ...]]) -> dict[str, Value | None]:
    changes: dict[str, Value | None] = {}
    if "trace_level" in values:
        changes["level"] = _level(values["trace_level"])
    for key, name, least, largest in _NUMBERS:
        if key in values:
            changes[name] = _number(key, values[key], least, largest)
    return changes


def _level(texts: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the levels in the order in which they are told; None for no text."""
    if not texts:
        return None
    if "OFF" in texts:
        if len(texts) > 1:
            raise InvalidRequest("Expect only one trace level 'OFF' is specified")
        return ()
    for text in texts:
        if text not in (TIMESTAMPS, TENSORS):
            raise InvalidRequest(
                f"Unable to parse 'trace_level', expected OFF, {TIMESTAMPS} or {TENSORS}, got: "
                f"{shown(text)}"
            )
    return tuple(level for level in (TIMESTAMPS, TENSORS) if level in texts)


def _number(key: str, texts: tuple[str, ...], least: int, largest: int) -> int | None:
    if not texts:
        return None
    if len(texts) > 1:
        raise InvalidRequest(f"expect only 1 value for '{key}'")
    text = texts[0]
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise InvalidRequest(f"Unable to parse '{key}', got: {shown(text)}")
    if len(digits) > 10 or not least <= int(text) <= largest:
        raise InvalidRequest(
            f"Unable to parse '{key}', value is out of range [ {least}, {largest} ], got: "
            f"{shown(text)}"
        )
    return int(text)
