"""What every example needs: a server as a process of its own, and a stop that is checked."""

import selectors
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_READY_S: Final = 60.0  # until the server must be ready
_STOP_S: Final = 30.0  # until it must have stopped


class ExampleFailed(Exception):
    """A step of an example did not do what it should; the text says which."""


@contextmanager
def serving(models: Path) -> Iterator[str]:
    """Run the server on free ports and give its address; at the end it must exit with code 0."""
    command = [sys.executable, "-m", "service", "serve", str(models), "--port", "0",
               "--http-port", "0"]  # fmt: skip
    show(command)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 (ours)
        try:
            yield _wait_until_ready(process)
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            raise ExampleFailed(f"the server did not stop within {_STOP_S:.0f} s") from None
        finally:
            if process.poll() is None:
                process.kill()
    if code != 0:
        raise ExampleFailed(f"the server exited with code {code}, not 0")


def run(command: Sequence[str]) -> None:
    """Show a command and run it. Raises ExampleFailed if it fails."""
    show(command)
    finished = subprocess.run(command, check=False)  # noqa: S603 (ours)
    if finished.returncode != 0:
        raise ExampleFailed(f"{command[2]} exited with code {finished.returncode}")


def show(command: Sequence[str]) -> None:
    """Print a command as a user would type it."""
    shown = shlex.join(["python", *command[1:]])
    for module, script in (("exporter", "penstock-export"), ("service", "penstock")):
        shown = shown.replace(f"python -m {module} ", f"{script} ")
    print(f"$ {shown}", flush=True)


def heading(number: int, text: str) -> None:
    """Print the number of a step and what it does."""
    print(f"\n== {number}. {text}", flush=True)


def _wait_until_ready(process: subprocess.Popen[str]) -> str:
    """Return the gRPC address that the server prints when it is ready."""
    if process.stdout is None:
        raise ExampleFailed("the server has no standard output")
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if not selector.select(timeout=_READY_S):
            raise ExampleFailed(f"the server was not ready within {_READY_S:.0f} s")
    line = process.stdout.readline().strip()
    fields = dict(part.split("=", 1) for part in line.split() if "=" in part)
    if not line.startswith("penstock ready") or "grpc" not in fields:
        raise ExampleFailed(f"the server said {line!r} instead of being ready")
    print(line)
    return fields["grpc"]
