"""Who is compared, and how each is started on a model."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.load import CannotServe, Requests
from benchmarks.peers.install import ROOT, python_of
from benchmarks.ports import free_port
from benchmarks.processes import Server
from service.transport.native import is_installed

_READY_S: Final = 60.0
PEERS: Final = {
    "pytriton": "Triton (pytriton)",
    "mlserver": "MLServer",
    "kserve": "KServe",
}


@dataclass(frozen=True)
class Job:
    """What every contender serves: threads of one run, and rows of the largest batch."""

    model: Path
    threads: int
    max_rows: int


@dataclass(frozen=True)
class Contender:
    """One way to serve. missing: why it cannot be started here; empty if it can."""

    name: str
    command: Callable[[Job, int], Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


def contenders() -> list[Contender]:
    """Return all of them, those that are missing here as well."""
    no_native = "" if is_installed() else "penstock-transport is not installed: make native"
    return [
        Contender("yardstick", _yardstick),
        Contender("Penstock native", _penstock("native"), missing=no_native),
        Contender("Penstock threaded", _penstock("threaded")),
        *(_peer(name, label) for name, label in PEERS.items()),
    ]


def start(contender: Contender, job: Job, requests: Requests, log: Path) -> tuple[Server, str]:
    """Start one and wait until it answers; return it and its address. Raises CannotServe."""
    if contender.missing:
        raise CannotServe(contender.missing)
    port = free_port()
    server = Server(contender.command(job, port), log, contender.environment)
    address = f"127.0.0.1:{port}"
    try:
        _wait(server, address, requests)
    except BaseException:
        server.stop()
        raise
    return server, address


def penstock(job: Job, port: int, *flags: str) -> list[str]:
    """Return how Penstock is started."""
    return [
        sys.executable, "-m", "service", "serve", str(job.model), "--model-name", "model",
        "--port", str(port), "--http-port", "0", "--threads", str(job.threads),
        "--max-batch-size", str(job.max_rows), "--drain-delay", "0", *flags,
    ]  # fmt: skip


def _wait(server: Server, address: str, requests: Requests) -> None:
    while True:
        try:
            requests.probe(address, stream=False)
        except CannotServe as error:
            waited = time.monotonic() - server.started
            if server.ended or waited > _READY_S:
                how = "ended" if server.ended else f"not ready after {_READY_S:.0f} s: {error}"
                raise CannotServe(f"{how}: {server.last_words()}") from None
            time.sleep(0.1)
        else:
            return


def _penstock(transport: str) -> Callable[[Job, int], Sequence[str]]:
    return lambda job, port: penstock(job, port, "--transport", transport)


def _yardstick(job: Job, port: int) -> Sequence[str]:
    path = Path(__file__).with_name("yardstick.py")
    return [sys.executable, str(path), str(job.model), str(port), str(job.threads)]


def _peer(name: str, label: str) -> Contender:
    python = python_of(name)

    def command(job: Job, port: int) -> Sequence[str]:
        module = f"benchmarks.peers.serve_{name}"
        numbers = [str(port), str(job.threads), str(job.max_rows)]
        return [str(python), "-m", module, str(job.model.resolve()), *numbers]

    # Triton's stub of Python loads libpython, which lies beside the interpreter of the venv.
    library = Path(sys.base_prefix) / "lib"
    environment = {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": str(ROOT)}
    missing = "" if python is not None else f"not installed: make bench-peers PEERS={name}"
    return Contender(label, command, environment, missing)
