"""Work in a process of its own, because foreign native code may crash, hang or eat all memory.

The child runs one function of ours. What it prints is kept from the user's terminal and shown, by
its last lines, only if the child fails. Its ExportErrors are raised here with their own type; a
signal, a time-out or the end of memory is a ChildCrashed.

A child is `python -m exporter.children DIRECTORY DESCRIPTOR`. DIRECTORY/call.pickle holds the
function and its arguments, lines of progress go through the pipe DESCRIPTOR, DIRECTORY/noise is
what libraries print, DIRECTORY/result.pickle is what came of it. Both ends are this program and
the same user; nothing that was loaded is unpickled here.
"""

import contextlib
import ctypes
import importlib
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from exporter import errors
from exporter.errors import ChildCrashed, ExportError
from exporter.isolation import leave_network

DEFAULT_TIMEOUT_S: Final = 600.0  # the largest models convert and load in minutes
_LAST_LINES: Final = 12  # of what a crashed child wrote: enough for the end of a traceback
_ROOT: Final = Path(__file__).resolve().parents[1]
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h: a signal for the child when its parent dies
_OUT_OF_MEMORY: Final = ("not enough memory", "can't allocate memory", "std::bad_alloc")


@dataclass(frozen=True, slots=True)
class _Call:
    function: str
    arguments: tuple[Any, ...]
    wants_progress: bool
    memory_bytes: int | None
    has_network: bool
    path: tuple[str, ...]


def run_child(  # noqa: PLR0913 (what to run, and the bounds it runs in)
    function: str,
    arguments: Sequence[Any] = (),
    *,
    what: str,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    progress: Callable[[str], None] | None = None,
    memory_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
    has_network: bool = True,
    error: type[ExportError] = ChildCrashed,
) -> Any:
    """Return what "package.module:function" makes of the arguments, in a child process.

    Arguments and result must be picklable. what: the step in words, for messages.
    progress: is called with each line that the function passes to its own `progress` argument,
    which it must then have. memory_bytes: bound of the child's address space.
    environment: variables that the child has besides ours. has_network: False: the child leaves
    the network before it does anything, where the system lets it.
    Raises what the function raises, if it is an ExportError; `error` if the child dies of a
    signal, lasts longer than timeout_s, runs out of memory, or fails in any other way.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-") as text:
        directory = Path(text)
        call = _Call(
            function,
            tuple(arguments),
            progress is not None,
            memory_bytes,
            has_network,
            tuple(sys.path),
        )
        with (directory / "call.pickle").open("wb") as file:
            pickle.dump(call, file)
        code = _run(directory, timeout_s, progress, environment or {})
        noise = _last_lines(directory / "noise")
        if code is None:
            raise error(f"{what} took longer than {timeout_s:g} s and was stopped{noise}")
        if code < 0:
            raise error(f"{what} {_death(-code)}{noise}")
        result = directory / "result.pickle"
        if code or not result.exists():
            raise error(f"{what} ended with exit code {code}{noise}")
        with result.open("rb") as file:
            kind, value = pickle.load(file)  # noqa: S301 (written by our own child)
    if kind == "value":
        return value
    if kind == "failed":
        raise error(f"{what} failed: {value}{noise}")
    raise getattr(errors, kind, ExportError)(value)


def _run(
    directory: Path,
    timeout_s: float,
    progress: Callable[[str], None] | None,
    more: Mapping[str, str],
) -> int | None:
    """Run the child; return its exit code, None if it took too long."""
    reading, writing = os.pipe()
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **more, "PYTHONPATH": os.pathsep.join(paths)}
    # -P: a file in the current directory must not shadow the standard library.
    command = [sys.executable, "-P", "-m", "exporter.children", str(directory), str(writing)]
    with (directory / "noise").open("wb") as noise, os.fdopen(reading, encoding="utf-8") as lines:
        try:
            process = subprocess.Popen(  # noqa: S603 (our own program)
                command, stdout=noise, stderr=noise, pass_fds=[writing], env=environment,
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writing)
        watchdog = threading.Timer(timeout_s, _kill, [process])
        watchdog.start()
        try:
            for line in lines:  # ends when the child does: nobody else has the other end
                if progress is not None:
                    progress(line.rstrip("\n"))
            code = process.wait()
        finally:  # also when we are interrupted
            is_in_time = watchdog.is_alive()
            watchdog.cancel()
            watchdog.join()
            _kill(process)
            process.wait()
    return code if is_in_time else None


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def _death(number: int) -> str:
    name = signal.Signals(number).name
    if number == signal.SIGKILL:
        return f"was killed ({name}): the machine has too little memory for it"
    return f"crashed ({name})"


def _last_lines(path: Path) -> str:
    """Return the end of what the child wrote, indented, "" if it wrote nothing."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "".join(f"\n  | {line[:200]}" for line in lines[-_LAST_LINES:])


def serve(directory: Path, descriptor: int) -> None:
    """Be the child: do the call and write down what came of it."""
    _die_with_parent()
    os.set_inheritable(descriptor, False)
    with (directory / "call.pickle").open("rb") as file:
        call: _Call = pickle.load(file)  # noqa: S301 (written by our own parent)
    sys.path[:] = call.path
    if not call.has_network:
        leave_network()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is told; its core is of no use
    if call.memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (call.memory_bytes, call.memory_bytes))
    with os.fdopen(descriptor, "w", encoding="utf-8") as lines:
        outcome = _outcome(call, lines)
    target = directory / "result.pickle"
    with target.with_suffix(".part").open("wb") as file:
        pickle.dump(outcome, file, protocol=pickle.HIGHEST_PROTOCOL)
    target.with_suffix(".part").rename(target)
    sys.stdout.flush()
    # Frameworks have threads and exit handlers that may hang or crash; the work is done.
    os._exit(0)


def _outcome(call: _Call, lines: IO[str]) -> tuple[str, Any]:
    def tell(line: str) -> None:
        lines.write(line.replace("\n", " ") + "\n")
        lines.flush()

    module, _, name = call.function.partition(":")
    try:
        keywords = {"progress": tell} if call.wants_progress else {}
        return "value", getattr(importlib.import_module(module), name)(*call.arguments, **keywords)
    except ExportError as error:
        return type(error).__name__, str(error)
    except MemoryError:
        return "failed", "it ran out of memory"
    except Exception as error:  # noqa: BLE001 (what it is, the parent tells the user)
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            return "failed", f"it ran out of memory: {error}"
        return "failed", f"{type(error).__name__}: {error}"


def _die_with_parent() -> None:
    """Have the kernel end this process if its parent is killed: nobody would end it else."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    # The functions that are called import this module by its name, not as __main__.
    importlib.import_module("exporter.children").serve(Path(sys.argv[1]), int(sys.argv[2]))
