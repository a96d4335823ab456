"""When windows agree, as a table."""

import pytest

from service.cli.bench.stability import Window, agree, most_windows

GOOD = Window(1000, 1e-3)


@pytest.mark.parametrize(
    ("windows", "stable"),
    [
        ([], False),
        ([GOOD, GOOD], False),
        ([GOOD, GOOD, GOOD], True),
        ([Window(1, 9.0), GOOD, GOOD, GOOD], True),  # only the last three count
        ([GOOD, GOOD, GOOD, Window(1, 9.0)], False),
        ([GOOD, Window(1050, 1e-3), Window(1095, 1e-3)], True),
        ([GOOD, Window(1050, 1e-3), Window(1120, 1e-3)], False),  # throughput
        ([GOOD, GOOD, Window(1000, 1.2e-3)], False),  # p99
        ([Window(0, 0), Window(0, 0), Window(0, 0)], False),  # nothing is no result
    ],
)
def test_agree(windows: list[Window], stable: bool) -> None:  # noqa: FBT001
    """Three windows in a row agree if throughput and p99 lie within a tenth of their means."""
    assert agree(windows, 0.1) is stable


@pytest.mark.parametrize(
    ("time_s", "window_s", "count"), [(0.3, 0.1, 3), (15, 1, 15), (2.99, 1, 2), (0.7, 0.1, 7)]
)
def test_windows_that_fit(time_s: float, window_s: float, count: int) -> None:
    """A quotient that is whole but for rounding counts whole."""
    assert most_windows(time_s, window_s) == count
