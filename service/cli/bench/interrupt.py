"""Control-C while a load runs: it ends a wait, and strikes nowhere else."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible_waits() -> Iterator[Callable[[float], None]]:
    """Give a function that waits for so many seconds, or until Control-C, which it raises.

    Elsewhere its exception could come between the start of a load and what would stop it. The
    second Control-C does what it did before. Where it is ignored, as in the background of a script,
    it stays so.
    """
    before = signal.getsignal(signal.SIGINT) or signal.SIG_DFL
    is_main = threading.current_thread() is threading.main_thread()
    if before is signal.SIG_IGN or not is_main:
        yield time.sleep
        return
    pressed = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    def wait(seconds: float) -> None:
        if pressed.wait(seconds):
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield wait
    finally:
        signal.signal(signal.SIGINT, before)
