"""Loads that take too long: given up, not begun twice, and closed when they end after all."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import LoadError
from service.lifecycle.manager import Manager
from service.lifecycle.states import State
from service.lifecycle.timed_loads import TimedLoads
from service.pb.model_config_pb2 import ModelConfig
from service.repository.layout import ModelSource, VersionSource
from tests.support.waiting import WAIT_S, eventually

STUCK = VersionSource("stuck", 1, Path("stuck/1"))
QUICK = VersionSource("quick", 1, Path("quick/1"))


class Made:
    """A loaded version."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self, timeout: float) -> bool:
        """Note it."""
        del timeout
        self.closed.set()
        return True


class Disk:
    """Loads versions; those of the model `stuck` wait for a gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.made: list[Made] = []

    def load(self, source: VersionSource, config: ModelConfig | None) -> Made:
        """Return a version."""
        del config
        if source.model == "stuck":
            assert self.gate.wait(WAIT_S)
        self.made.append(Made())
        return self.made[-1]


@pytest.fixture
def disk() -> Iterator[Disk]:
    """Make one; nothing waits for it after the test."""
    made = Disk()
    yield made
    made.gate.set()
    eventually(lambda: not _load_threads(), "the loads have ended")


def test_what_takes_too_long_is_given_up(disk: Disk) -> None:
    """Its caller is told; it is not begun again before it ends, and what it brings is closed."""
    loads = TimedLoads(disk.load, 0.2)
    with pytest.raises(LoadError, match=r"^it was not loaded within 0.2 s \(--load-timeout\)$"):
        loads(STUCK, None)
    with pytest.raises(LoadError, match="an earlier load of it has not ended"):
        loads(STUCK, None)
    assert loads.is_busy
    assert not disk.made
    disk.gate.set()
    eventually(lambda: not loads.is_busy, "it has ended")
    (late,) = disk.made
    assert late.closed.wait(WAIT_S)
    again = eventually(lambda: _loaded(loads, STUCK), "it is loaded again")
    assert again is not None
    assert not again.closed.is_set()


def test_others_are_loaded_meanwhile(disk: Disk) -> None:
    """A version that hangs is one that fails; the next model is loaded, and the rest is told."""
    manager: Manager[Made] = Manager(lambda _: None, disk.load, 2.0)
    manager.apply(
        ModelSource(source.model, source.directory.parent, (source,)) for source in (STUCK, QUICK)
    )
    assert [(s.model, s.state, s.reason) for s in manager.index()] == [
        ("quick", State.READY, ""),
        ("stuck", State.FAILED, "it was not loaded within 2 s (--load-timeout)"),
    ]
    assert manager.is_loading


def test_what_a_load_raises_is_told() -> None:
    """Also if it is a TimeoutError, as file systems raise them."""
    error = TimeoutError("stale file handle")

    def fail(source: VersionSource, config: ModelConfig | None) -> Made:
        del source, config
        raise error

    loads = TimedLoads(fail, WAIT_S)
    with pytest.raises(TimeoutError, match="stale file handle"):
        loads(QUICK, None)
    assert not loads.is_busy


def test_without_a_limit_the_caller_loads() -> None:
    """Nothing is given up then, and no thread is needed."""
    threads: list[int] = []

    def load(source: VersionSource, config: ModelConfig | None) -> Made:
        del source, config
        threads.append(threading.get_ident())
        return Made()

    TimedLoads(load, 0.0)(QUICK, None)
    assert threads == [threading.get_ident()]


def _loaded(loads: TimedLoads[Made], source: VersionSource) -> Made | None:
    try:
        return loads(source, None)
    except LoadError:
        return None


def _load_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("load-")]
