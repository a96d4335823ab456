"""Real servers: a process of `penstock serve`, and one inside the test process."""

import http.client
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from prometheus_client.parser import text_string_to_metric_families

from service.app.server import Server
from service.config import Settings
from tests.support.stub import Stub

ROOT = Path(__file__).resolve().parent.parent.parent
_READY = "penstock ready "
_FREE_PORTS = ("--port", "0", "--http-port", "0")
_STOP_S = 40.0  # longer than the longest drain

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(slots=True)
class RunningServer:
    """A server process that is ready. log: what it has written to stderr."""

    process: subprocess.Popen[str]
    addresses: list[str]
    http_address: str
    log: Path

    @property
    def address(self) -> str:
        """Return the first address for gRPC."""
        return self.addresses[0]

    @contextmanager
    def stub(self, *options: tuple[str, Any]) -> Iterator[Stub]:
        """Connect to it, on a connection of its own. options: of the channel."""
        own = ("grpc.use_local_subchannel_pool", 1)  # channels of one process share connections
        with grpc.insecure_channel(self.address, options=[own, *options]) as channel:
            yield Stub(channel)

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a page of the HTTP port."""
        return http_get(self.http_address, path)

    def metrics(self) -> Samples:
        """Return every sample of /metrics by name and sorted labels."""
        status, text = self.get("/metrics")
        assert status == http.client.OK, text
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def sample(self, name: str, **labels: str) -> float:
        """Return one sample of /metrics, 0 if it is not there yet."""
        return self.metrics().get((name, tuple(sorted(labels.items()))), 0.0)

    def queue_depth(self, model: str, version: str = "1") -> float:
        """Return how many requests wait for a model."""
        return self.sample("penstock_queue_depth", model=model, version=version)

    def runs(self, model: str, version: str = "1") -> bool:
        """Tell whether a batch of a model runs."""
        return self.sample("penstock_batches_in_progress", model=model, version=version) > 0

    def rss_mib(self) -> float:
        """Return the resident memory of the process in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def peak_mib(self) -> float:
        """Return the most resident memory since `forget_peak`, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def forget_peak(self) -> None:
        """Let the peak of the resident memory begin at what it is now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        """Return how many files and sockets the process has open."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())

    def cpu_s(self) -> float:
        """Return the CPU time that the process has used, in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        return self.process.wait(_STOP_S)


@contextmanager
def serve(
    repository: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    exit_code: int = 0,
) -> Iterator[RunningServer]:
    """Run a server on free ports; it is stopped by SIGTERM and must end with exit_code.

    flags: of `penstock serve`. environment: instead of this process's.
    """
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        with log.open("w") as errors, _process(repository, flags, environment, errors) as process:
            try:
                server = _ready(process, log)
                yield server
                server.terminate()
                code = server.wait()
                assert code == exit_code, f"exit code {code}: {log.read_text()}"
            finally:
                process.kill()


@contextmanager
def serve_inside(settings: Settings) -> Iterator[Server]:
    """Run a server in this process, for tests that look at its parts."""
    server = Server(settings)
    try:
        server.start()
    except BaseException:
        server.abort()
        raise
    try:
        yield server
    finally:
        server.stop(lambda _seconds: True)


def run_serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `penstock serve` that is expected to end by itself, on free ports unless given."""
    return subprocess.run(
        [sys.executable, "-m", "service", "serve", *_FREE_PORTS, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_STOP_S,
        check=False,
    )


def http_get(address: str, path: str) -> tuple[int, str]:
    """Return status and body of an HTTP GET."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def _process(
    repository: Path, flags: tuple[str, ...], environment: Mapping[str, str] | None, errors: Any
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "service", "serve", str(repository)]
    command += ["--port", "0", "--http-port", "0", "--drain-delay", "0", *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=dict(os.environ if environment is None else environment),
    )


def _ready(process: subprocess.Popen[str], log: Path) -> RunningServer:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(_READY), f"not ready: {line!r} {log.read_text()}"
    *addresses, http_part = line.split()[2:]
    addresses = [address.removeprefix("grpc=") for address in addresses]
    return RunningServer(process, addresses, http_part.removeprefix("http="), log)
