"""A load is run until it is stable, and not longer than allowed."""

import pytest

from service.cli.bench.measure import Measured, Timing, measure
from service.cli.bench.stability import Window
from tests.support.load import FakeLoad, FakeSample

TIMING = Timing(warm_up_s=0.5, window_s=1.0, max_s=6.0, agreement=0.1)
WARM_UP = FakeSample(answered=7)


def run(*samples: FakeSample | BaseException) -> tuple[Measured, FakeLoad, list[float]]:
    """Measure a load that gives these samples after the warm-up; return also what was slept."""
    load = FakeLoad([WARM_UP, *samples])
    slept: list[float] = []
    measured = measure(load, TIMING, sleep=slept.append)
    assert (load.calls[0], load.calls[-1]) == ("start", "stop")
    return measured, load, slept


def test_three_windows_that_agree_are_enough() -> None:
    """The result is the last three windows; warm-up and the windows before do not count."""
    steady = [FakeSample(1000), FakeSample(1010), FakeSample(990)]
    measured, load, slept = run(FakeSample(500), *steady)
    assert (measured.end, measured.windows, measured.sample.answered) == ("stable", 4, 3000)
    assert slept == [0.5, 1.0, 1.0, 1.0, 1.0]
    assert not load.samples


def test_time_is_limited() -> None:
    """After max_s the last three windows are the result, and it says that they do not agree."""
    rising = [FakeSample(1000 * 2**number) for number in range(7)]
    measured, load, _ = run(*rising)
    assert (measured.end, measured.windows, len(load.samples)) == ("not stable", 6, 1)
    assert measured.sample.answered == 8000 + 16000 + 32000


def test_a_window_lasts_until_there_are_enough_answers() -> None:
    """Two takes with 60 answers are one window of 120."""
    measured, _, _ = run(*[FakeSample(60) for _ in range(6)])
    assert (measured.end, measured.windows) == ("stable", 3)
    assert measured.sample.answered == 360


def test_a_slow_server_gives_what_it_gives() -> None:
    """Where there are never enough answers for a window, they are the result all the same."""
    measured, _, _ = run(*[FakeSample(2) for _ in range(6)])
    assert (measured.end, measured.windows, measured.sample.answered) == ("not stable", 1, 12)


def test_a_server_that_dies_is_not_left_out() -> None:
    """A window that is never full, as nothing answers any more, is part of the result."""
    dead = FakeSample(0, failures=[(14, 3, "gone")])
    measured, _, _ = run(FakeSample(1000), FakeSample(5000), FakeSample(1000), dead, dead, dead)
    assert (measured.end, measured.windows, measured.sample.answered) == ("not stable", 4, 6000)
    assert (len(measured.sample.failures), measured.sample.seconds) == (3, 5.0)


def test_a_load_that_only_fails_ends_early() -> None:
    """Three windows without an answer are enough."""
    failed = [FakeSample(0, failures=[(8, 500, "full")]) for _ in range(6)]
    measured, load, _ = run(*failed)
    assert (measured.end, len(load.samples)) == ("failing", 3)


def test_interrupt_gives_what_there_is() -> None:
    """Control-C ends the measurement with the windows and the piece that there are."""
    load = FakeLoad([WARM_UP, FakeSample(1000), FakeSample(300)])

    def sleep(_seconds: float) -> None:
        if load.calls.count("take") == 2:
            raise KeyboardInterrupt

    measured = measure(load, TIMING, sleep=sleep)
    assert (measured.end, measured.windows, measured.sample.answered) == ("interrupted", 2, 1300)
    assert load.calls[-1] == "stop"


def test_a_load_is_stopped_whatever_happens() -> None:
    """An error leaves no load behind."""
    load = FakeLoad([WARM_UP, RuntimeError("broken")])
    with pytest.raises(RuntimeError, match="broken"):
        measure(load, TIMING, sleep=lambda _seconds: None)
    assert load.calls[-1] == "stop"


def test_who_watches_is_told() -> None:
    """The end of the warm-up and each window are told as they come."""
    told: list[object] = []
    load = FakeLoad([WARM_UP, *[FakeSample(1000) for _ in range(3)]])
    measure(
        load,
        TIMING,
        on_warm=lambda: told.append("warm"),
        on_window=lambda number, window: told.append((number, window)),
        sleep=lambda _seconds: None,
    )
    window = Window(1000.0, 1e-3)
    assert told == ["warm", (1, window), (2, window), (3, window)]
