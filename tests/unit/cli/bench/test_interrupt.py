"""Control-C during a measurement."""

import os
import signal
import threading
import time

import pytest

from service.cli.bench.interrupt import interruptible_waits
from service.cli.bench.measure import Timing, measure
from tests.support.load import FakeLoad, FakeSample


def test_control_c_ends_the_next_wait() -> None:
    """Pressed while something else is done, it breaks nothing there, and the next wait ends."""
    with interruptible_waits() as wait:
        wait(0.0)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            wait(100.0)


def test_control_c_during_the_start_of_a_load_stops_it() -> None:
    """Python tells of a signal after the native call: the load runs then, and must be stopped."""

    class Load(FakeLoad):
        def start(self) -> None:
            super().start()
            signal.raise_signal(signal.SIGINT)

    load = Load([FakeSample(7)])
    with interruptible_waits() as wait:
        measured = measure(load, Timing(0.0, 1.0, 6.0, 0.1), sleep=wait)
    assert (measured.end, measured.sample.answered, load.calls[-1]) == ("interrupted", 7, "stop")


def test_control_c_ends_a_wait() -> None:
    """Pressed during a wait, it ends it."""
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    with interruptible_waits() as wait, pytest.raises(KeyboardInterrupt):
        wait(100.0)


def test_second_control_c_is_as_before() -> None:
    """The second one raises where the program is, as after the measurement."""
    with interruptible_waits():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_ignored_signal_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in the background of a script is not ended by Control-C in the foreground."""
    monkeypatch.setattr(signal, "getsignal", lambda _number: signal.SIG_IGN)
    with interruptible_waits() as wait:
        assert wait is time.sleep


def test_other_threads_just_sleep() -> None:
    """A thread that no signal reaches gets an ordinary sleep."""
    waits: list[object] = []

    def measure() -> None:
        with interruptible_waits() as wait:
            waits.append(wait)

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    assert waits == [time.sleep]
