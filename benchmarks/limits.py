"""What Penstock must keep within beside its speed, measured and compared with what is wanted.

    python -m benchmarks.limits out/bench [--rounds 3] [--only idle ...]

Each figure starts a server of its own on the digits-sized MLP. Prints a table, writes
out/bench/limits.json for benchmarks/report.py unless only some were asked for, and ends with exit
code 1 if a figure was missed.
Latencies are compared in alternating rounds, as medians.
"""

import argparse
import datetime as dt
import json
import math
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks.contenders import Job, penstock
from benchmarks.latency import latency_at
from benchmarks.load import CannotServe, Case, Requests, drive
from benchmarks.machine import describe_machine, wake_up_delays_ms
from benchmarks.ports import free_port
from benchmarks.processes import Server
from benchmarks.report import limits_table

_MB: Final = 1e6
_IDLE_S: Final = 10.0
_IDLE_CONNECTIONS: Final = 1000
_QUANTUM_S: Final = 0.004  # of Linux at 250 Hz, where the system does not tell
_STREAM_RATE: Final = 1000  # messages a second over all streams
_CHEAP_RATE: Final = 500  # requests a second for the cheap model
# RFC 9113, section 3.4: the preface and an empty SETTINGS frame; then the acknowledgement.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
_ACKNOWLEDGEMENT: Final = bytes.fromhex("000000040100000000")
_WIDE: Final = ("--max-concurrent-calls", "4000", "--max-connections", "4000")


@dataclass(frozen=True)
class Figure:
    """What was wanted and what was measured."""

    name: str
    wanted: str
    measured: str
    reached: bool


@dataclass(frozen=True)
class Context:
    """What the figures share."""

    models: Path
    scratch: Path
    rounds: int

    @contextmanager
    def server(self, *flags: str, model: Path | None = None) -> Iterator[tuple[Server, str]]:
        """Run Penstock on the MLP, or another file or repository; give it and its address."""
        port = free_port()
        job = Job(model or self.models / "mlp.onnx", 1, 64)
        command = penstock(job, port, *flags)
        if job.model.is_dir():
            at = command.index("--model-name")
            del command[at : at + 2]
        server = Server(command, self.scratch / "server.log")
        try:
            wait_until_ready(server)
            yield server, f"127.0.0.1:{port}"
        finally:
            server.stop()

    def requests(self) -> Requests:
        """Return the request of one row for the MLP."""
        return Requests(self.scratch, "input", (1, 784))

    def warm(self, address: str) -> None:
        """Send enough that everything has been allocated that a busy server needs."""
        for case in (Case("", 64), Case("", 16, stream=True)):
            count = 20_000 // case.messages
            drive(address, case, self.requests().body(case), count, answer_bytes=0)


def wait_until_ready(server: Server) -> float:
    """Wait for the line that says so and return the seconds since exec."""
    while "penstock ready" not in server.log.read_text(errors="replace"):
        if server.ended or time.monotonic() - server.started > 60:
            raise SystemExit(f"the server did not start: {server.last_words()}")
        time.sleep(0.002)
    return time.monotonic() - server.started


def idle(context: Context) -> Figure:
    """CPU of a server that has served and waits, with a connection open."""
    with context.server() as (server, address):
        context.warm(address)
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(_PREFACE + _ACKNOWLEDGEMENT)
            time.sleep(2)
            before = server.cpu_ns()
            time.sleep(_IDLE_S)
            percent = (server.cpu_ns() - before) / 1e9 / _IDLE_S * 100
    return Figure("CPU when idle", "0.0 %", f"{percent:.2f} %", percent < 0.05)


def memory(context: Context) -> Figure:
    """Resident memory while it serves the MLP."""
    with context.server() as (server, address):
        context.warm(address)
        used = server.rss_mib() * (1 << 20) / _MB
    return Figure("memory serving the MLP", "at most 120 MB", f"{used:.0f} MB", used <= 120)


def ready(context: Context) -> Figure:
    """Seconds from exec to the line that says ready."""
    times = []
    for _ in range(max(3, context.rounds)):
        command = penstock(Job(context.models / "mlp.onnx", 1, 64), free_port())
        server = Server(command, context.scratch / "server.log")
        try:
            times.append(wait_until_ready(server))
        finally:
            server.stop()
    median = statistics.median(times)
    text = f"{median:.2f} s ({min(times):.2f} to {max(times):.2f})"
    return Figure("ready after exec", "at most 1.0 s", text, median <= 1.0)


def connections(context: Context) -> Figure:
    """Memory that idle connections add."""
    with context.server(*_WIDE) as (server, address), ExitStack() as stack:
        context.warm(address)
        before = server.rss_mib()
        host, port = address.rsplit(":", 1)
        for _ in range(_IDLE_CONNECTIONS):
            connection = stack.enter_context(socket.create_connection((host, int(port))))
            connection.sendall(_PREFACE + _ACKNOWLEDGEMENT)
            if not connection.recv(9):
                raise SystemExit("the server closed an idle connection")
        time.sleep(0.5)
        added = (server.rss_mib() - before) * (1 << 20) / _MB
    name = f"{_IDLE_CONNECTIONS:,} idle connections"
    return Figure(name, "at most 40 MB more", f"{added:.0f} MB", added <= 40)


def linear(context: Context) -> Figure:
    """CPU a request with many in flight, against few."""
    few, many = Case("", 16, connections=4), Case("", 256, connections=4)
    used: dict[Case, list[float]] = {few: [], many: []}
    with context.server() as (server, address):
        context.warm(address)
        for _ in range(max(5, context.rounds)):
            for case, values in used.items():
                before = server.cpu_ns()
                load = drive(address, case, context.requests().body(case), 20_000, answer_bytes=0)
                values.append((server.cpu_ns() - before) / 1e3 / load.messages)
    ratio = statistics.median(b / a for a, b in zip(used[few], used[many], strict=True))
    text = f"{ratio:.2f}x ({statistics.median(used[few]):.0f} us at 16)"
    return Figure("CPU a request, 256 in flight against 16", "at most 1x", text, ratio <= 1.0)


def inside(context: Context) -> Figure:
    """Time inside the server with one request in flight, by its own clock, without the run."""
    requests = context.requests()
    with context.server() as (server, address):
        context.warm(address)
        before = overhead_buckets(server)
        for _ in range(context.rounds):
            drive(address, Case("", 1), requests.body(Case("", 1)), 5_000, answer_bytes=0)
        counts = {bound: count - before[bound] for bound, count in overhead_buckets(server).items()}
    if max(counts.values()) < context.rounds * 4_000:
        raise SystemExit("the server did not count the requests that it was sent")
    median_us, tail_us = (quantile(counts, share) * 1e6 for share in (0.5, 0.99))
    text = f"{median_us:.0f} us (p99 {tail_us:.0f} us)"
    name = "time in the server less the run, one in flight, p50"
    return Figure(name, "at most 60 us", text, median_us <= 60)


def overhead_buckets(server: Server) -> dict[float, float]:
    """Return the cumulative counts of penstock_overhead_seconds by upper bound in seconds."""
    found = re.search(r"http=(\S+)", server.log.read_text(errors="replace"))
    if found is None:
        raise SystemExit("the server does not say where its metrics are")
    with urllib.request.urlopen(f"http://{found[1]}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    pattern = r'^penstock_overhead_seconds_bucket\{le="(\S+)"\} (\S+)$'
    pairs = re.findall(pattern, text, re.MULTILINE)
    if not pairs:
        raise SystemExit("the server reports no penstock_overhead_seconds")
    return {float(bound): float(count) for bound, count in pairs}


def quantile(counts: dict[float, float], share: float) -> float:
    """Return a quantile of cumulative counts by upper bound, even within a bucket."""
    wanted = share * max(counts.values())
    low_bound = low_count = 0.0
    for bound, count in sorted(counts.items()):
        if count >= wanted:
            if bound == math.inf:
                return low_bound
            part = (wanted - low_count) / ((count - low_count) or 1.0)
            return low_bound + part * (bound - low_bound)
        low_bound, low_count = bound, count
    return low_bound


def tail(context: Context) -> Figure:
    """p99 against p50 at half of the peak load."""
    with context.server() as (_, address):
        context.warm(address)
        runs = []
        for _ in range(context.rounds):
            peak = latency_at(address, "--concurrency", "64").per_second
            runs.append(latency_at(address, rate=peak / 2))
    ratio = statistics.median(run.p99_s / run.p50_s for run in runs)
    p50_us = statistics.median(run.p50_s for run in runs) * 1e6
    rate = statistics.median(run.per_second for run in runs)
    text = f"{ratio:.1f}x (p50 {p50_us:.0f} us at {rate:,.0f}/s)"
    return Figure("p99 at half of the peak, against p50", "at most 4x", text, ratio <= 4)


def streams(context: Context) -> Figure:
    """p99 of messages on 1,000 streams against 100, at the same rate in all."""
    p99: dict[int, list[float]] = {100: [], 1000: []}
    with context.server(*_WIDE) as (_, address):
        context.warm(address)
        for _ in range(context.rounds):
            for count, values in p99.items():
                flags = ("--stream", "--streams", str(count))
                values.append(latency_at(address, *flags, rate=_STREAM_RATE).p99_s)
    ratio = statistics.median(b / a for a, b in zip(p99[100], p99[1000], strict=True))
    text = f"{ratio:.1f}x ({statistics.median(p99[100]) * 1e3:.2f} ms with 100)"
    name = f"p99 of 1,000 streams against 100, at {_STREAM_RATE:,} messages/s in all"
    return Figure(name, "at most 3x", text, ratio <= 3)


def fairness(context: Context) -> Figure:
    """p99 of the MLP beside a model of some 50 ms that is saturated, against alone."""
    repository = context.scratch / "models"
    for name in ("mlp", "encoder"):
        (repository / name / "1").mkdir(parents=True, exist_ok=True)
        link = repository / name / "1" / "model.onnx"
        if not link.exists():
            link.symlink_to((context.models / f"{name}.onnx").resolve())
    alone, beside = [], []
    with context.server(model=repository) as (_, address):
        for _ in range(context.rounds):
            alone.append(latency_at(address, model="mlp", rate=_CHEAP_RATE).p99_s)
            with saturated(address, "encoder"):
                beside.append(latency_at(address, model="mlp", rate=_CHEAP_RATE).p99_s)
    quantum = os.sched_rr_get_interval(0) or _QUANTUM_S
    share = statistics.median(
        theirs / (2 * mine + quantum) for mine, theirs in zip(alone, beside, strict=True)
    )
    text = (
        f"{share:.2f} of that ({statistics.median(beside) * 1e3:.2f} ms, alone "
        f"{statistics.median(alone) * 1e3:.2f} ms, quantum {quantum * 1e3:.0f} ms)"
    )
    name = "p99 of a cheap model beside a saturated slow one"
    return Figure(name, "at most 2x alone and a quantum", text, share <= 1)


@contextmanager
def saturated(address: str, model: str) -> Iterator[None]:
    """Keep a model busy with four requests of eight rows in flight."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "bench", address, "--model", model, "--rows", "8",
         "--concurrency", "4", "--max-s", "60", "--agreement", "0.001"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(1.5)
        yield
        if process.poll() is not None:
            raise SystemExit("the load on the slow model ended too early")
    finally:
        process.kill()
        process.wait()


FIGURES: Final[dict[str, Callable[[Context], Figure]]] = {
    each.__name__: each
    for each in (idle, memory, ready, connections, inside, linear, tail, streams, fairness)
}


def attempt(figure: Callable[[Context], Figure], context: Context) -> Figure:
    """Measure one; what fails is said in its place, and the others go on."""
    try:
        return figure(context)
    except (CannotServe, OSError, SystemExit) as error:
        name = (figure.__doc__ or "").rstrip(".")
        return Figure(name, "-", f"not measured: {error}", reached=False)


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Limits that Penstock must keep within.")
    parser.add_argument("directory", type=Path, help="of the models of benchmarks/models.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=FIGURES, default=[])
    arguments = parser.parse_args()
    middle, late = wake_up_delays_ms()
    machine = (
        f"{describe_machine()}; a thread that slept is late by {middle:.2f} ms, p99 {late:.2f} ms"
    )
    figures = []
    with tempfile.TemporaryDirectory() as scratch:
        context = Context(arguments.directory, Path(scratch), arguments.rounds)
        for name in arguments.only or FIGURES:
            figures.append(figure := attempt(FIGURES[name], context))
            print(f"{figure.name}: {figure.measured}, wanted {figure.wanted}", file=sys.stderr)
    document = {
        "machine": machine,
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "figures": [asdict(figure) for figure in figures],
    }
    if not arguments.only:
        (arguments.directory / "limits.json").write_text(json.dumps(document, indent=1))
    print("\n".join(limits_table(document)))
    return 0 if all(figure.reached for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
