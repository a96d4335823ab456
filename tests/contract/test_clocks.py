"""Durations are measured on the monotonic clock: the wall clock may jump (E15 of docs/faults)."""

import re

from tests.support.servers import ROOT

# Where a moment is told to people or to other programs, the wall clock is right.
_TELLS_THE_TIME = {
    "service/observability/stats.py",  # last_inference of ModelStatistics
    "service/observability/logs.py",  # time of a log line
    "service/cli/bench/run.py",  # date of a report
    "service/rest/app.py",  # the Date header
}
_WALL = re.compile(
    r"\btime\.(time|time_ns|localtime|gmtime)\(|\bdatetime\.(now|today)\(|\bdt\.datetime\.now\("
)


def test_the_server_reads_the_wall_clock_nowhere_else() -> None:
    """No module of the server reads the wall clock, but for those that tell the time."""
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "service").rglob("*.py")
        if _WALL.search(path.read_text())
    }
    assert found <= _TELLS_THE_TIME


def test_the_native_transport_measures_with_instants() -> None:
    """The wall clock of Rust stands only where the age of TLS files is compared."""
    found = {
        path.name
        for path in (ROOT / "transport" / "src").rglob("*.rs")
        if "SystemTime" in path.read_text()
    }
    assert found <= {"tls.rs"}
