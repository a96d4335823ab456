"""What the log says by its settings, and in which form."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from service.observability.logs import (
    LogControl,
    LogSettings,
    configure,
    forget_unwritable,
    log_control,
)

LEVELS = ("debug", "info", "warning", "error", "critical")
Written = Callable[[], str]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """Return what the log has said since it was read last; afterwards the log is as it was."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.handlers = []
    yield lambda: capsys.readouterr().err
    root.handlers = handlers
    root.setLevel(level)


def said(written: Written) -> list[str]:
    """Log a line of each level and return those that are written."""
    logger = logging.getLogger("some.part")
    for level in LEVELS:
        getattr(logger, level)("it is %s", level)
    return [line.rpartition(" ")[2] for line in written().splitlines()]


@pytest.mark.parametrize("count", range(4))
def test_least_level_at_start(written: Written, count: int) -> None:
    """--log-level sets the flags by which it is told and changed later."""
    control = configure(LEVELS[count], "text")
    assert said(written) == list(LEVELS[count:])
    settings = control.settings
    flags = (bool(settings.verbose_level), settings.info, settings.warning, settings.error)
    assert flags == tuple(index >= count for index in range(4))
    assert log_control() is control


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"info": False}, ["warning", "error", "critical"]),
        ({"warning": False}, ["info", "error", "critical"]),
        ({"error": False}, ["info", "warning", "critical"]),
        ({"verbose_level": 2}, list(LEVELS)),
        ({"info": False, "warning": False, "error": False}, ["critical"]),
        ({"info": False, "verbose_level": 1}, ["debug", "warning", "error", "critical"]),
    ],
)
def test_levels_while_it_runs(written: Written, changes: dict[str, bool], lines: list[str]) -> None:
    """Each flag lets its lines through or not; what ends the process is always told."""
    control = configure("info", "text")
    control.change(replace(control.settings, **changes))  # type: ignore[arg-type]
    assert said(written) == lines


def test_forms(written: Written) -> None:
    """ISO8601 has milliseconds and the logger; JSON stays what it is, for whoever reads it."""
    control = configure("error", "text")
    logger = logging.getLogger("some.part")
    logger.error("a\nb")
    control.change(replace(control.settings, form="ISO8601"))
    logger.error("a\nb")
    first, second = written().splitlines()
    assert first[10:].endswith("Z ERROR a\\x0ab")
    assert second[19] == "."
    assert second[23:] == "Z ERROR some.part: a\\x0ab"
    control = configure("error", "json")
    control.change(replace(control.settings, form="ISO8601"))
    logger.error("x")
    assert json.loads(written())["message"] == "x"


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "never there"])
def test_streams_that_are_not_there_are_no_failure_at_exit(
    monkeypatch: pytest.MonkeyPatch, *, is_closed: bool
) -> None:
    """A server may have been started without stdout, and a model's code may have closed it."""
    stream = io.TextIOWrapper(io.BytesIO()) if is_closed else None
    if stream is not None:
        stream.close()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    forget_unwritable()


def test_a_control_of_nothing() -> None:
    """Without a log of ours the settings are kept, and change nobody else's log."""
    before = logging.getLogger().level
    control = LogControl(LogSettings())
    control.change(replace(control.settings, info=False, warning=False))
    assert not control.settings.info
    assert logging.getLogger().level == before
