"""Work in a process of its own: results, progress, errors, and every way to die."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.children import run_child
from exporter.errors import ChildCrashed, ConversionFailed, UsageError
from tests.support.waiting import eventually

_HERE = "tests.unit.exporter.child_functions"
_ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(_ROOT))


def test_a_result_comes_back() -> None:
    """Arguments go in, the result comes out, and it was another process."""
    doubled, process = run_child(f"{_HERE}:double", [21], what="doubling")
    assert doubled == 42
    assert process != os.getpid()


def test_progress_passes_through_while_noise_does_not(capfd: pytest.CaptureFixture[str]) -> None:
    """Lines of progress arrive in order; what libraries print is kept away from the user."""
    lines: list[str] = []
    assert run_child(f"{_HERE}:talk", what="talking", progress=lines.append) is None
    assert lines == ["one", "two"]
    assert capfd.readouterr() == ("", "")


def test_a_child_can_be_without_a_network() -> None:
    """Where the system lets it, a child that is to have no network reaches not even this one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert run_child(f"{_HERE}:connect", [port], what="connecting") == "connected"
        outcome = run_child(f"{_HERE}:connect", [port], what="connecting", has_network=False)
    can_leave = run_child("exporter.isolation:leave_network", what="asking")
    assert (outcome != "connected") is can_leave


def test_an_error_of_ours_keeps_its_type_and_text() -> None:
    """What the function raises for the user is raised here, without a word added."""
    with pytest.raises(UsageError, match=r"^no such axis$"):
        run_child(f"{_HERE}:refuse", what="refusing")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("segfault", r"^dying crashed \(SIGSEGV\)\n  \| last words$"),
        ("be_killed", r"was killed \(SIGKILL\): the machine has too little memory"),
        ("leave", r"^dying ended with exit code 9\n  \| leaving$"),
        ("fail", r"^dying failed: KeyError: 'k'"),
        ("eat_memory", r"failed: it ran out of memory"),
    ],
)
def test_every_death_is_told(function: str, says: str) -> None:
    """A signal, an exit, an error and the end of memory are told apart, with the last lines."""
    with pytest.raises(ChildCrashed, match=says):
        run_child(f"{_HERE}:{function}", what="dying", memory_bytes=1 << 32)


def test_the_caller_may_name_the_error() -> None:
    """A step whose crash means something else raises that."""
    with pytest.raises(ConversionFailed, match="SIGSEGV"):
        run_child(f"{_HERE}:segfault", what="dying", error=ConversionFailed)


def test_a_child_that_hangs_is_stopped_with_its_own_children() -> None:
    """The time-out ends the whole group of processes."""
    with pytest.raises(ChildCrashed, match=r"waiting took longer than 1 s and was stopped"):
        run_child(f"{_HERE}:hang", what="waiting", timeout_s=1.0)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel does it, and only Linux can")
def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """Killing the exporter leaves no child behind."""
    program = (
        "from exporter.children import run_child\n"
        f"run_child('{_HERE}:tell_and_hang', ['{tmp_path / 'pid'}'], what='waiting')"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=_ROOT)
    try:
        eventually((tmp_path / "pid").exists, "the child to start")
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    child = int((tmp_path / "pid").read_text())
    eventually(lambda: not _alive(child), "the child to end")
