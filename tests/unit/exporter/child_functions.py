"""Functions for test_children: one for each thing that can happen in a child."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from exporter.errors import UsageError


def double(number: int) -> tuple[int, int]:
    """Return twice the number and the process."""
    return number * 2, os.getpid()


def talk(progress: Callable[[str], None]) -> None:
    """Report progress, and make noise as libraries do."""
    progress("one")
    os.write(1, b"noise on stdout\n")
    os.write(2, b"noise on stderr\n")
    progress("two")


def connect(port: int) -> str:
    """Tell how a connection to a port of this machine goes."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except OSError as error:
        return type(error).__name__
    return "connected"


def refuse() -> None:
    """Raise an error for the user."""
    raise UsageError("no such axis")


def segfault() -> None:
    """Crash as native code does."""
    os.write(2, b"last words\n")
    os.kill(os.getpid(), signal.SIGSEGV)


def be_killed() -> None:
    """End as the kernel ends what takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    """Exit without a result."""
    os.write(2, b"leaving\n")
    os._exit(9)


def fail() -> None:
    """Raise an error that nobody expects."""
    raise KeyError("k")


def eat_memory() -> int:
    """Take more memory than there may be."""
    return len(bytearray(1 << 33))


def hang() -> None:
    """Never return."""
    threading.Event().wait()


def tell_and_hang(path: str) -> None:
    """Write down the process and never return."""
    part = Path(path + ".part")
    part.write_text(str(os.getpid()))
    part.rename(path)
    sys.stdout.flush()
    hang()
