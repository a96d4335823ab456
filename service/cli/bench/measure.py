"""One load from warm-up to result. Knows when to look, and nothing of what is sent."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from service.cli.bench.result import Sample
from service.cli.bench.stability import LEAST_ANSWERS, WINDOWS, Window, agree, most_windows

_STOP_S: Final = 1.0  # for the answers to what is in flight at the end


class RunningLoad(Protocol):
    """What is needed of a penstock_transport.Load."""

    def start(self) -> None: ...  # noqa: D102
    def take(self) -> Any: ...  # noqa: D102
    def stop(self, timeout_s: float = ...) -> None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Timing:
    """How long everything takes, in seconds. agreement: see stability.agree."""

    warm_up_s: float
    window_s: float
    max_s: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Measured:
    """The last windows of a load as one sample. end: see result.Level. windows: how many."""

    sample: Sample
    end: str
    windows: int


def measure(
    load: RunningLoad,
    timing: Timing,
    *,
    on_warm: Callable[[], None] = lambda: None,
    on_window: Callable[[int, Window], None] = lambda _number, _window: None,
    sleep: Callable[[float], None] = time.sleep,
) -> Measured:
    """Run a load until three windows agree, or for max_s after the warm-up.

    on_warm: called when measuring begins. on_window: called with each window. A window goes on
    until it has LEAST_ANSWERS, failed ones included. KeyboardInterrupt ends the measurement with
    what there is. Raises OSError if a connection cannot be made.
    """
    load.start()
    windows: list[Any] = []
    begun: list[Any] = []  # what a window that has too few answers is made of
    try:
        sleep(timing.warm_up_s)
        load.take()
        on_warm()
        end = _run(load, timing, windows, begun, on_window, sleep)
    except KeyboardInterrupt:
        end = "interrupted"
        begun.append(load.take())
    finally:
        load.stop(_STOP_S)
    if begun:  # too few answers, but maybe because the server has gone: it counts
        windows.append(_joined(begun))
    return Measured(_joined(windows[-WINDOWS:]), end, len(windows))


def _run(
    load: RunningLoad,
    timing: Timing,
    windows: list[Any],
    begun: list[Any],
    on_window: Callable[[int, Window], None],
    sleep: Callable[[float], None],
) -> str:
    for _ in range(most_windows(timing.max_s, timing.window_s)):
        sleep(timing.window_s)
        begun.append(load.take())
        sample = _joined(begun)
        failed = sum(count for _, count, _ in sample.failures)
        if sample.answered + failed < LEAST_ANSWERS:
            continue
        begun.clear()
        windows.append(sample)
        on_window(len(windows), _window(sample))
        if agree([_window(each) for each in windows], timing.agreement):
            return "stable"
        if len(windows) >= WINDOWS and not any(each.answered for each in windows[-WINDOWS:]):
            return "failing"
    return "not stable"


def _window(sample: Sample) -> Window:
    return Window(sample.answered / max(sample.seconds, 1e-9), sample.quantile_s("latency", 0.99))


def _joined(samples: list[Any]) -> Any:
    whole = samples[0]
    for sample in samples[1:]:
        whole = whole.then(sample)
    return whole
