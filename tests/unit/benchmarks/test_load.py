"""What counts as an answer in the benchmarks."""

import sys
from pathlib import Path

import pytest

from benchmarks.load import CannotServe, Requests
from benchmarks.processes import Server
from tests.support.models import mlp, publish
from tests.support.servers import serve
from tests.support.waiting import eventually


def test_error_of_grpc_is_no_answer(tmp_path: Path) -> None:
    """A server that answers is taken; one that answers with an error is not, unary or stream."""
    publish(tmp_path, "model", mlp())
    good = Requests(tmp_path, "X", (1, 784))
    wrong = Requests(tmp_path, "X", (1, 3))
    with serve(tmp_path) as running:
        assert good.probe(running.address, stream=False) > 40
        assert good.probe(running.address, stream=True) > 40
        for stream in (False, True):
            with pytest.raises(CannotServe, match=r"shape|Expected"):
                wrong.probe(running.address, stream=stream)


def test_children_count_and_end_with_their_server(tmp_path: Path) -> None:
    """CPU and memory are those of all processes, and none is left behind."""
    child = (
        "import time\nuntil = time.process_time() + 0.2\n"
        "while time.process_time() < until: pass\nprint('burnt', flush=True)\ntime.sleep(60)"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"
        "time.sleep(60)"
    )
    server = Server([sys.executable, "-c", parent], tmp_path / "log")
    try:
        eventually(lambda: "burnt" in server.log.read_text(), "the child has burnt its CPU")
        pids = server.pids()
        assert len(pids) == 2
        assert server.cpu_s() >= 0.15  # counted in ticks of 10 ms, for each process
        assert server.cpu_ns() >= 150_000_000
        assert server.memory_mib() > server.rss_mib() / 4 > 0
    finally:
        server.stop()
    assert server.pids() == []
    eventually(lambda: not any(map(lives, pids)), "all have ended")


def lives(pid: int) -> bool:
    """Tell whether a process runs or sleeps."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
