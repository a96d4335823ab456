"""A server in processes of its own, and what all of them together use."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_STOP_S: Final = 10.0


class Server:
    """A command in a session of its own. Its children count as its own."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """log: what it writes to stdout and stderr."""
        with log.open("wb") as output:
            self.started = time.monotonic()
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", **(environment or {})},
            )
        self.log = log

    @property
    def pid(self) -> int:
        """Return the first process."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Tell whether the first process has ended."""
        return self._process.poll() is not None

    def pids(self) -> list[int]:
        """Return the processes: those of the session, and descendants that left it."""
        parents: dict[int, int] = {}
        found: set[int] = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                parents[int(entry.name)] = int(fields[1])
                if int(fields[3]) == self.pid:
                    found.add(int(entry.name))
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def cpu_s(self) -> float:
        """Return the CPU time that they have used, and those that have ended before."""
        return sum(
            sum(map(int, fields[11:15])) * _TICK_S
            for pid in self.pids()
            if (fields := _stat(pid)) is not None
        )

    def cpu_ns(self) -> int:
        """Return the CPU time of the threads that live, in nanoseconds: finer than `cpu_s`."""
        total = 0
        for pid in self.pids():
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with contextlib.suppress(OSError):
                    total += int(thread.read_text().split()[0])
        return total

    def memory_mib(self) -> float:
        """Return their resident memory, with shared pages divided among those that share them."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total / 1024

    def rss_mib(self) -> float:
        """Return the resident memory of the first process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def stop(self) -> None:
        """End it, and what it has left behind."""
        began = {pid: _began(pid) for pid in self.pids()}
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        for pid, when in began.items():  # a wrapper may have left its server behind
            if when is not None and _began(pid) == when:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait(_STOP_S)

    def last_words(self) -> str:
        """Return the end of its log, in one line."""
        return self.log.read_text(errors="replace").strip().rpartition("\n")[2][-200:]


def _began(pid: int) -> str | None:
    """Return when a process began, which tells it from a later one; None if it has ended."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else fields[19]


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the name: state, parent, group, session, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
