"""What a sample says: figures, server, and whether the client was too slow."""

import json

import pytest

from service.cli.bench.result import (
    Failure,
    Load,
    ServerSide,
    Spread,
    as_json,
    bottleneck,
    level_of,
    server_side,
)
from tests.support.load import FakeSample

CLOSED = Load(8, None, 1, 0)
OPEN = Load(None, 500.0, 1, 0)


def spread(value_s: float) -> Spread:
    """Return a distribution of one value."""
    return Spread(*[value_s] * 7)


@pytest.mark.parametrize(
    ("shares", "latency_s", "lag_s", "limit", "part"),
    [
        ((0.5, 0.6, 0.1), 1e-3, None, None, None),
        ((0.95, 1.0, 0.0), 1e-3, None, None, "95% of a CPU: give it more --threads"),
        ((0.3, 0.5, 0.4), 1e-3, None, None, "the client waited for a CPU"),
        ((0.3, 0.98, 0.0), 1e-3, None, None, "the client waited for a CPU"),
        ((0.3, 0.5, 0.0), 1e-3, None, 128, "allows 128 calls on a connection"),
        ((0.3, 0.5, 0.0), 5e-3, 2e-3, None, "sent late, p99 2.0 ms"),
        ((0.3, 0.5, 0.0), 50e-3, 2e-3, None, None),  # late, but it does not matter here
        ((0.3, 0.5, 0.0), 1e-3, 0.9e-3, None, None),  # less than a millisecond
    ],
)
def test_bottleneck(
    shares: tuple[float, float, float],
    latency_s: float,
    lag_s: float | None,
    limit: int | None,
    part: str | None,
) -> None:
    """The client says what held it up, if anything did."""
    lag = None if lag_s is None else spread(lag_s)
    found = bottleneck(shares, spread(latency_s), lag, limit)
    assert (found is None) if part is None else (found is not None and part in found)


def test_level_counts_answers_and_failures_apart() -> None:
    """Throughput is of answers only; failures have names and shares."""
    sample = FakeSample(300, seconds=2.0, failures=[(8, 60, "full"), (14, 40, "gone")])
    level = level_of(CLOSED, "stable", 3, sample, rows=4, server=None)
    assert (level.per_second, level.rows_per_second) == (150.0, 600.0)
    assert level.failures == (
        Failure("RESOURCE_EXHAUSTED", 60, "full"),
        Failure("UNAVAILABLE", 40, "gone"),
    )
    assert (level.failed, level.failed_share) == (100, 0.25)
    assert (level.lag, level.series) == (None, (300, 0))
    assert level.client.cpu_us_per_request == pytest.approx(0.1 / 300 * 1e6)


def test_only_an_open_loop_has_a_lag() -> None:
    """How late requests were sent is told where they have a schedule."""
    level = level_of(OPEN, "stable", 3, FakeSample(lag_s=1e-5), rows=1, server=None)
    assert level.lag == spread(1e-5)


def test_server_side_needs_both_timings() -> None:
    """Trailers count where the answers have them."""
    assert server_side(FakeSample(), "timing 0", "timing 1", None) is None
    sample = FakeSample(timings_s=(1e-4, 2e-4))
    expected = ServerSide("trailers", 1e-4, 2e-4, 3.5)
    assert server_side(sample, "timing 0", "timing 1", 3.5) == expected


def test_json_keeps_its_form() -> None:
    """The fields of a level are those that scripts rely on; change SCHEMA with them."""
    server = ServerSide("trailers", 1e-4, 2e-4, None)
    level = level_of(OPEN, "stable", 3, FakeSample(failures=[(2, 1, "x")]), 1, server)
    spread_keys = {"mean_s", "p50_s", "p90_s", "p95_s", "p99_s", "p999_s", "max_s"}
    written = json.loads(json.dumps(as_json(level)))
    assert {name: set(value) for name, value in written.items() if isinstance(value, dict)} == {
        "load": {"in_flight", "per_second", "connections", "streams"},
        "latency": spread_keys,
        "lag": spread_keys,
        "server": {"source", "queue_mean_s", "compute_mean_s", "rows_per_execution"},
        "client": {"cpu_share", "busy_share", "waiting_share", "cpu_us_per_request", "bottleneck"},
    }
    assert written.keys() - {"load", "latency", "lag", "server", "client"} == {
        "end", "windows", "seconds", "answered", "per_second", "rows_per_second", "failures",
        "failed", "reconnects", "series",
    }  # fmt: skip
    assert written["failures"] == [{"code": "UNKNOWN", "count": 1, "text": "x"}]
