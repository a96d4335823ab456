"""Which load is recommended, as a table."""

import pytest

from service.cli.bench.knee import Point, advise


def closed(*levels: tuple[int, float]) -> list[Point]:
    """Return points of closed loops: requests in flight and throughput; p99 is twice the mean."""
    return [Point(rate, count / rate, 2 * count / rate) for count, rate in levels]


SWEEP = closed((1, 8_000), (4, 22_000), (16, 38_000), (64, 56_000), (256, 60_000))


@pytest.mark.parametrize(
    ("points", "limit_s", "knee", "recommended"),
    [
        (SWEEP, None, 1, 1),
        (SWEEP, 1e-3, 1, 2),  # p99 of 16 in flight: 0.84 ms, of 64: 2.3 ms
        (SWEEP, 1.0, 1, 4),
        (SWEEP, 1e-6, 1, None),
        (closed((1, 100), (2, 200), (4, 400)), None, 2, 2),  # it never bends
        (closed((1, 100), (2, 100), (4, 100)), None, 0, 0),  # more in flight only wait
        (closed((1, 100), (2, 141)), None, 0, 0),  # less than 1.41 times as much
        (closed((1, 100), (2, 142)), None, 1, 1),
        (closed((8, 50)), None, 0, 0),
        ([], None, None, None),
        ([Point(0, 0, 0)], None, None, None),
        ([Point(100, 0.1, 0.1), Point(900, 0.1, 0.1, failed=0.02)], None, 0, 0),
        ([Point(100, 0.1, 0.1), Point(900, 0.1, 0.1, failed=0.01)], None, 1, 1),
        ([Point(900, 0.1, 0.1, failed=1.0)], 1.0, None, None),
    ],
)  # fmt: skip
def test_advice(
    points: list[Point], limit_s: float | None, knee: int | None, recommended: int | None
) -> None:
    """The knee has the most throughput for its latency; a limit takes the most within it."""
    advice = advise(points, limit_s)
    assert (advice.knee, advice.recommended) == (knee, recommended)


def test_reason_names_the_limit() -> None:
    """Why something is recommended, or nothing, is said with the limit."""
    assert "a p99 within 1 ms" in advise(SWEEP, 1e-3).reason
    assert advise(SWEEP, 1e-6).reason == "no load has a p99 within 0.001 ms"
    assert "the knee" in advise(SWEEP).reason
    assert "failures" in advise([]).reason
