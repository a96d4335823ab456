"""The measurement from the flags to the exit code."""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from service import __version__
from service.cli.bench import plot
from service.cli.bench.arguments import Plan, plan_of
from service.cli.bench.interrupt import interruptible_waits
from service.cli.bench.knee import Advice, Point, advise
from service.cli.bench.measure import Timing, measure
from service.cli.bench.progress import Progress
from service.cli.bench.report import Subject, render
from service.cli.bench.requests import (
    Messages,
    random_inputs,
    resolved_shapes,
    serialised,
    split_rows,
)
from service.cli.bench.result import SCHEMA, Level, Load, ServerSide, as_json, level_of, server_side
from service.cli.bench.server import (
    SERVICE,
    RequestRefused,
    Server,
    ServerUnreachable,
    Totals,
    native_client,
    peer_of,
    specs_of,
)
from service.cli.inputs import gather
from service.cli.usage import UsageError
from service.errors import dims
from service.pb import grpc_service_pb2 as pb
from service.tensors import TensorSpec

_FAILED: Final = 3
_INTERRUPTED: Final = 130  # what shells give for SIGINT
_TIMINGS: Final = ("penstock-queue-us", "penstock-compute-us")
# ModelStreamInferResponse: error_message is field 1; infer_response is field 2, its id field 3.
_REPLY_ERROR: Final = (1,)
_REPLY_ID: Final = (2, 3)


def run(arguments: argparse.Namespace) -> int:
    """Measure and show; return the exit code.

    Raises UsageError for what cannot be measured as asked, ServerUnreachable, and RequestRefused
    if the server refuses the first request.
    """
    plan = plan_of(arguments)
    if arguments.plot:
        plot.check_matplotlib()
    server = Server(plan.address, peer_of(plan.address, plan.headers, arguments))
    model = plan.model or server.only_model()
    specs = list(plan.inputs) or specs_of(server.metadata(model, plan.version))
    messages = _messages(plan, model, specs)
    if not plan.streams:
        _try_one(server, messages)
    bench = _Bench(plan, server, model, messages)
    levels = bench.measure()
    if not levels:
        return _INTERRUPTED
    advice = advise([_point(level) for level in levels], plan.latency_limit_s)
    subject = _subject(plan, model, messages)
    _show(arguments, plan, subject, levels, advice, interrupted=bench.interrupted)
    if bench.cut_short:
        raise ServerUnreachable(f"the other loads were not measured: {bench.cut_short}")
    if bench.interrupted:
        return _INTERRUPTED
    return _FAILED if any(level.failed for level in levels) else 0


class _Bench:
    """Goes through the loads of a plan."""

    def __init__(self, plan: Plan, server: Server, model: str, messages: Messages) -> None:
        self._plan = plan
        self._server = server
        self._model = model
        self._messages = messages
        self._progress = Progress(sys.stderr)
        self.interrupted = False
        self.cut_short = ""

    def measure(self) -> list[Level]:
        """Return what was measured, of fewer loads if the user or the server's end cut it short.

        Raises ServerUnreachable if there is nothing to return.
        """
        loads = list(_loads(self._plan))
        levels: list[Level] = []
        try:
            with interruptible_waits() as wait:
                for number, load in enumerate(loads, 1):
                    self._progress.begin(str(load), number, len(loads))
                    levels.append(self._measure_one(load, wait))
                    if levels[-1].end == "interrupted":
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            self.interrupted = True
        except ServerUnreachable as error:
            if not levels:
                raise
            self.cut_short = str(error)
        finally:
            self._progress.end()
        return levels

    def _measure_one(self, load: Load, wait: Callable[[float], None]) -> Level:
        plan = self._plan
        before: list[Totals | None] = []
        try:
            measured = measure(
                self._native(load),
                Timing(plan.warm_up_s, plan.window_s, plan.max_s, plan.agreement),
                on_warm=lambda: before.append(self._totals()),
                on_window=self._progress.window,
                sleep=wait,
            )
        except OSError as error:
            raise ServerUnreachable(str(error)) from error
        counted = self._counted(before[0] if before else None)
        rows = counted.rows / counted.executions if counted and counted.executions else None
        server = server_side(measured.sample, "timing 0", "timing 1", rows)
        if server is None and counted and counted.requests > 0:
            each = 1e9 * counted.requests
            server = ServerSide(
                "statistics", counted.queue_ns / each, counted.compute_ns / each, rows
            )
        return level_of(
            load, measured.end, measured.windows, measured.sample, self._messages.rows, server
        )

    def _totals(self) -> Totals | None:
        return self._server.totals(self._model, self._plan.version)

    def _counted(self, before: Totals | None) -> Totals | None:
        after = self._totals() if before else None
        return after - before if before and after else None

    def _native(self, load: Load) -> Any:
        """Return the penstock_transport.Load."""
        plan = self._plan
        method = "ModelStreamInfer" if plan.streams else "ModelInfer"
        return native_client().Load(
            self._server.peer,
            SERVICE + method,
            self._messages.contents,
            in_flight=load.in_flight,
            per_second=load.per_second,
            seed=plan.seed,
            connections=load.connections,
            threads=plan.threads,
            streams=load.streams,
            id_at=self._messages.id_at,
            reply_id=_REPLY_ID if plan.streams else (),
            reply_error=_REPLY_ERROR if plan.streams else (),
            timings=_TIMINGS,
            timeout_s=plan.timeout_s,
        )


def _loads(plan: Plan) -> Iterator[Load]:
    for in_flight in plan.in_flight:
        streams = min(plan.streams, in_flight)
        connections = min(plan.connections_for(streams or in_flight), streams or in_flight)
        yield Load(in_flight, None, connections, streams)
    for per_second in plan.per_second:
        connections = plan.connections_for(plan.streams or 1)
        yield Load(None, per_second, min(connections, plan.streams or connections), plan.streams)


def _messages(plan: Plan, model: str, specs: list[TensorSpec]) -> Messages:
    if plan.data:
        inputs = split_rows(gather([plan.data], {}, specs), specs, plan.rows)
    else:
        shapes = resolved_shapes(specs, plan.shapes, plan.rows)
        inputs = random_inputs(specs, shapes, plan.seed)
    return serialised(model, plan.version, inputs, specs, numbered=bool(plan.streams))


def _try_one(server: Server, messages: Messages) -> None:
    """Ask once, so that what is always refused is told at once."""
    request = pb.ModelInferRequest.FromString(messages.contents[0])
    try:
        server.ask("ModelInfer", request, pb.ModelInferResponse)
    except RequestRefused as error:
        raise RequestRefused(
            error.code,
            f"{str(error).partition(': ')[2]} (the first request was refused; --data FILE sends "
            "inputs of your own)",
        ) from None


def _point(level: Level) -> Point:
    latency = level.latency
    return Point(level.per_second, latency.mean_s, latency.p99_s, level.failed_share)


def _subject(plan: Plan, model: str, messages: Messages) -> Subject:
    now = datetime.now(UTC)
    return Subject(
        model=model,
        version=plan.version,
        address=plan.address,
        method="stream" if plan.streams else "unary",
        rows=messages.rows,
        inputs=", ".join(f"{name} {dims(shape)}" for name, shape in messages.shapes.items()),
        machine=f"client: {_processor()}, {os.cpu_count()} CPUs, {now:%Y-%m-%d %H:%M} UTC",
    )


def _processor() -> str:
    """Return the name of the processor, or of its kind where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.machine()


def _show(
    arguments: argparse.Namespace,
    plan: Plan,
    subject: Subject,
    levels: list[Level],
    advice: Advice,
    *,
    interrupted: bool,
) -> None:
    text = render(subject, levels, advice)
    to_stdout = arguments.json == "-"
    print(text, file=sys.stderr if to_stdout else sys.stdout, flush=True)
    if arguments.json:
        document = _document(plan, subject, levels, advice)
        _write_json(arguments.json, document | {"interrupted": interrupted})
    if arguments.plot:
        title = text.splitlines()[0]
        plot.draw(arguments.plot, title, levels, advice)


def _document(plan: Plan, subject: Subject, levels: list[Level], advice: Advice) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "penstock": __version__,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "target": {
            "address": plan.address,
            "model": subject.model,
            "version": plan.version,
            "method": subject.method,
            "rows": subject.rows,
            "inputs": subject.inputs,
        },
        "client": {"processor": _processor(), "cpus": os.cpu_count(), "threads": plan.threads},
        "settings": {
            "seed": plan.seed,
            "warm_up_s": plan.warm_up_s,
            "window_s": plan.window_s,
            "max_s": plan.max_s,
            "agreement": plan.agreement,
            "timeout_s": plan.timeout_s,
            "latency_limit_s": plan.latency_limit_s,
        },
        "levels": [as_json(level) for level in levels],
        "knee": advice.knee,
        "recommended": advice.recommended,
        "reason": advice.reason,
    }


def _write_json(path: str, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=2) + "\n"
    if path == "-":
        sys.stdout.write(text)
        return
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--json {path}: cannot be written: {error.strerror}") from error
