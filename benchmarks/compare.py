"""Servers side by side: driven by h2load in alternating rounds, and compared as ratios.

    python -m benchmarks.compare out/bench [--rounds 3] [--seconds 1.5] [--peer NAME=HOST:PORT]

For each model all servers are up at once; in each round every case visits them one after another,
there and back (A B C C B A), beginning with another one in each round, so that a noisy machine is
noisy for all of them, and one that gets slower favours none. How many requests a case sends is set
by a first, uncounted visit. Ratios are to the yardstick (benchmarks/yardstick.py) of the same
round. CPU is that of all processes of a server. The figures are written to out/bench/compare.json,
for benchmarks/report.py, unless only some workloads or servers were asked for.
"""

import argparse
import datetime as dt
import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import onnxruntime as ort

from benchmarks.contenders import Job, contenders, start
from benchmarks.inprocess import InProcess
from benchmarks.load import CannotServe, Case, Requests, drive
from benchmarks.machine import describe_machine
from benchmarks.processes import Server
from benchmarks.report import LIMIT, table

_MIN_REQUESTS: Final = 20
_TRIAL_S: Final = 0.3  # of the second trial, about


@dataclass(frozen=True)
class Workload:
    """A model, the rows of each request, the largest batch of the server, and what is asked."""

    name: str
    model: str
    rows: int
    max_rows: int
    cases: tuple[Case, ...]


MLP_CASES: Final = (
    Case("unary, 1 in flight", 1),
    Case("unary, 16 in flight", 16),
    Case("unary, 64 in flight", 64),
    Case("streams of 100, one after another", 1, stream=True),
    Case("16 streams of 100 at once", 16, stream=True),
)
_BUSY: Final = (Case("4 in flight", 4),)
WORKLOADS: Final = (
    Workload("mlp", "mlp", 1, 64, MLP_CASES),
    Workload("cnn, batch 1", "cnn", 1, 1, _BUSY),
    Workload("cnn, batch 8", "cnn", 8, 8, _BUSY),
    Workload("encoder, batch 1", "encoder", 1, 1, _BUSY),
    Workload("encoder, batch 8", "encoder", 8, 8, _BUSY),
)


class Visit(NamedTuple):
    """What one measurement gave. cpu_us_per_row: None of a server that is not ours to look at."""

    rows_per_second: float
    cpu_us_per_row: float | None


@dataclass
class Figures:
    """What was measured of one server in one case: a value for each round, in order."""

    rows_per_second: list[float] = field(default_factory=list)
    cpu_us_per_row: list[float] = field(default_factory=list)

    def add(self, visits: Sequence[Visit | None]) -> None:
        """Add the mean of the visits of one round; nothing counts once one of them failed."""
        found = [visit for visit in visits if visit is not None]
        if len(found) < len(visits):
            self.rows_per_second.clear()
            self.cpu_us_per_row.clear()
            return
        self.rows_per_second.append(statistics.fmean(visit.rows_per_second for visit in found))
        cpu_us = [visit.cpu_us_per_row for visit in found if visit.cpu_us_per_row is not None]
        if cpu_us:
            self.cpu_us_per_row.append(statistics.fmean(cpu_us))


Results: TypeAlias = dict[str, dict[str, dict[str, Figures]]]  # by workload, case and server


class Bench:
    """One workload: every contender up, and what they are asked."""

    def __init__(self, stack: ExitStack, workload: Workload, directory: Path, threads: int) -> None:
        self.workload = workload
        self.missing: dict[str, str] = {}  # why a server, or a server in a case, has no figures
        self.at_rest: dict[str, dict[str, float]] = {}
        self._stack = stack
        self._job = Job(directory / f"{workload.model}.onnx", threads, workload.max_rows)
        self._scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = ort.InferenceSession(str(self._job.model)).get_inputs()[0]
        shape = (workload.rows, *source.shape[1:])
        self._requests = Requests(self._scratch, source.name, shape)
        self._servers: dict[str, Server] = {}
        self._addresses: dict[str, str] = {}
        self._plans: dict[tuple[str, str], tuple[int, int]] = {}  # requests, bytes of an answer
        self._limit = InProcess(self._job.model, threads, workload.rows)
        stack.callback(self._limit.stop)

    @property
    def names(self) -> list[str]:
        """Return who takes part."""
        return [LIMIT, *self._addresses]

    def start(self, peers: dict[str, str], only: set[str]) -> None:
        """Start the contenders. peers: addresses of servers that somebody else has started."""
        for number, contender in enumerate(contenders()):
            if only and contender.name not in only:
                continue
            log = self._scratch / f"server-{number}.log"
            try:
                server, address = start(contender, self._job, self._requests, log)
            except CannotServe as error:
                self.missing[contender.name] = str(error)
                print(f"{contender.name}: {error}", file=sys.stderr)
                continue
            self._stack.callback(server.stop)
            self._servers[contender.name] = server
            self._addresses[contender.name] = address
        self._addresses |= peers

    def visit(self, case: Case, name: str, seconds: float) -> Visit | None:
        """Measure one server in one case once; None if it cannot serve it, which is noted."""
        if name == LIMIT:
            return Visit(*self._limit.measure(seconds))
        where = f"{name}, {case.name}"
        if where in self.missing:
            return None
        try:
            requests, answer_bytes = self._plan(case, name, seconds)
            server = self._servers.get(name)
            before = server.cpu_s() if server else 0.0
            load = drive(
                self._addresses[name],
                case,
                self._requests.body(case),
                requests,
                answer_bytes=answer_bytes,
            )
        except CannotServe as error:
            self.missing[where] = str(error)
            print(f"{where}: {error}", file=sys.stderr)
            return None
        rows = self.workload.rows
        used = server.cpu_s() - before if server else None
        cpu_us = None if used is None else used / (load.messages * rows) * 1e6
        return Visit(load.rate * rows, cpu_us)

    def rest(self) -> None:
        """Note what each server takes when nobody asks."""
        for name, server in self._servers.items():
            self.at_rest[name] = {
                "memory_mib": round(server.memory_mib(), 1),
                "processes": len(server.pids()),
            }

    def _plan(self, case: Case, name: str, seconds: float) -> tuple[int, int]:
        """Return how many requests take so long, and the bytes of an answer; asks once for each."""
        key = (case.name, name)
        if key not in self._plans:
            address, body = self._addresses[name], self._requests.body(case)
            answer_bytes = self._requests.probe(address, stream=case.stream)
            requests = max(_MIN_REQUESTS, 2 * case.in_flight)
            for share in (_TRIAL_S, seconds):  # the first trial is too short to go by
                load = drive(address, case, body, requests, answer_bytes=answer_bytes)
                wanted = round(load.rate / case.messages * share)
                requests = max(_MIN_REQUESTS, 2 * case.in_flight, wanted)
            self._plans[key] = requests, answer_bytes
        return self._plans[key]


def measure(bench: Bench, rounds: int, seconds: float, results: Results) -> None:
    """Let every case visit every server twice in each round, there and back."""
    bench.rest()
    names = bench.names
    for number in range(rounds):
        there = names[number % len(names) :] + names[: number % len(names)]
        for case in bench.workload.cases:
            visits: dict[str, list[Visit | None]] = defaultdict(list)
            for name in (*there, *reversed(there)):
                if name == LIMIT and case is not bench.workload.cases[0]:
                    continue  # it knows no cases
                visits[name].append(bench.visit(case, name, seconds / 2))
            by_server = results[bench.workload.name].setdefault(case.name, {})
            for name, pair in visits.items():
                by_server.setdefault(name, Figures()).add(pair)
        print(f"{bench.workload.name}: round {number + 1} of {rounds}", file=sys.stderr)


def main() -> None:
    """Run every workload, print the tables and write the figures."""
    parser = argparse.ArgumentParser(description="Servers side by side.")
    parser.add_argument("directory", type=Path, help="of the models of benchmarks/models.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="for each server, case and round, about"
    )
    parser.add_argument("--threads", type=int, default=1, help="of one run, in every server")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=HOST:PORT")
    parser.add_argument("--workload", action="append", default=[], help="only this one")
    parser.add_argument("--server", action="append", default=[], help="only this one")
    arguments = parser.parse_args()
    peers = dict(peer.split("=", 1) for peer in arguments.peer)
    chosen = set(arguments.workload) or {workload.name for workload in WORKLOADS}
    results: Results = defaultdict(dict)
    missing: dict[str, dict[str, str]] = {}
    at_rest: dict[str, dict[str, float]] = {}
    for workload in WORKLOADS:
        if workload.name not in chosen:
            continue
        with ExitStack() as stack:
            bench = Bench(stack, workload, arguments.directory, arguments.threads)
            bench.start(peers, set(arguments.server))
            measure(bench, arguments.rounds, arguments.seconds, results)
            missing[workload.name] = bench.missing
            at_rest = at_rest or bench.at_rest
    document = {
        "machine": describe_machine(),
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "missing": missing,
        "at_rest": at_rest,
        "results": {
            workload: {
                case: {name: asdict(figures) for name, figures in servers.items()}
                for case, servers in cases.items()
            }
            for workload, cases in results.items()
        },
    }
    if not (arguments.workload or arguments.server):
        (arguments.directory / "compare.json").write_text(json.dumps(document, indent=1))
    print(table(document))


if __name__ == "__main__":
    main()
