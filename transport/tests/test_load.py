"""The load generator as Python sees it, against a server of the same distribution."""

import time
from typing import Any

import pytest
from penstock_transport import Load, Peer, Sample

from harness import HOLD, PATIENCE_S, STREAM, UNARY, App


def measured(load: Load, answers: int = 100) -> Sample:
    """Run a load until it has so many answers, and stop it."""
    load.start()
    try:
        sample = load.take()
        deadline = time.monotonic() + PATIENCE_S
        while sample.answered < answers and time.monotonic() < deadline:
            time.sleep(0.02)
            sample = sample.then(load.take())
    finally:
        load.stop()
    return sample


@pytest.mark.parametrize("streams", [0, 2])
@pytest.mark.parametrize("schedule", [{"in_flight": 4}, {"per_second": 2000.0}])
def test_durations_are_kept(app: App, streams: int, schedule: dict[str, Any]) -> None:
    """Every answer has a latency, quantiles ascend, and requests on a schedule have a lag."""
    path = STREAM if streams else UNARY
    load = Load(Peer(app.address), path, [b"a", b"b" * 3000], streams=streams, **schedule)
    sample = measured(load)
    assert sample.answered == sample.count("latency") >= 100
    assert (sample.failures, sample.reconnects, sample.stream_limit) == ([], 0, None)
    quantiles = [sample.quantile_s("latency", each / 10) for each in range(11)]
    assert quantiles == sorted(quantiles)
    assert 0 < quantiles[0] <= sample.mean_s("latency") <= sample.max_s("latency")
    assert sum(count for _, count in sample.recorded("latency")) == sample.answered
    assert (sample.count("lag") > 0) is ("per_second" in schedule)
    ((cpu_s, busy_s, waiting_s),) = sample.usage
    assert cpu_s > 0
    assert busy_s > 0
    assert waiting_s >= 0


def test_peer_calls_once(app: App) -> None:
    """A single call gives the reply, or the status and its text; HOLD is not answered in time."""
    peer = Peer(app.address, metadata=[("x-name", "value"), ("x-bin", b"\0")])
    assert peer.call(UNARY, b"hello") == (0, "", b"hello")
    code, text, reply = peer.call("/test.Echo/Nothing", b"")
    assert (code, reply) == (12, b"")
    assert text
    with pytest.raises(OSError, match=r"did not answer in 0\.1 s"):
        peer.call(HOLD, b"", 0.1)


def test_a_load_runs_once(app: App) -> None:
    """It is started once, and gives samples while it runs only."""
    load = Load(Peer(app.address), UNARY, [b""], in_flight=1)
    with pytest.raises(RuntimeError, match="does not run"):
        load.take()
    load.start()
    with pytest.raises(RuntimeError, match="started once"):
        load.start()
    sample = load.take()
    assert sample.kinds == ["latency", "lag"]
    with pytest.raises(ValueError, match=r'"timing 0" was not measured: expected one of'):
        sample.count("timing 0")
    with pytest.raises(ValueError, match="between 0 and 1, not 2"):
        sample.quantile_s("latency", 2.0)
    load.stop()
    load.stop()
    with pytest.raises(RuntimeError, match="does not run"):
        load.take()


def test_nothing_listens() -> None:
    """A load on nobody cannot start, and says where it tried."""
    load = Load(Peer("127.0.0.1:1"), UNARY, [b""], in_flight=1)
    with pytest.raises(OSError, match=r"cannot connect to 127\.0\.0\.1:1: "):
        load.start()


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({}, "either in_flight or per_second"),
        ({"in_flight": 1, "per_second": 1.0}, "either in_flight or per_second"),
        ({"in_flight": 0}, "in_flight must be at least 1"),
        ({"per_second": 0.0}, "per_second must be between"),
        ({"per_second": float("nan")}, "per_second must be between"),
        ({"in_flight": 1, "connections": 0}, "connections must be at least 1"),
        ({"in_flight": 1, "threads": 0}, "threads must be at least 1"),
        ({"in_flight": 1, "messages": []}, "no message to send"),
        ({"in_flight": 1, "id_at": [1]}, "place of 8 bytes in each message"),
        ({"in_flight": 1, "id_at": [0, 0]}, "place of 8 bytes in each message"),
        ({"in_flight": 1, "timings": ["a b"]}, "invalid HTTP header name"),
        ({"in_flight": 1, "path": "no path"}, "no request can be made of"),
        ({"in_flight": 1, "timeout_s": -1.0}, "timeout_s = -1"),
    ],
)
def test_loads_that_cannot_be(settings: dict[str, Any], part: str) -> None:
    """What cannot be sent is refused before anything is connected."""
    given = {"path": UNARY, "messages": [b"12345678"]} | settings
    with pytest.raises((ValueError, TypeError), match=part):
        Load(Peer("127.0.0.1:1"), **given)


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"address": "nowhere"}, "neither HOST:PORT nor unix:/PATH"),
        ({"tls": True}, "either tls_ca or tls_verify=False"),
        ({"tls": True, "tls_ca": "x", "tls_verify": False}, "either tls_ca or tls_verify=False"),
        ({"tls_ca": "x"}, "need tls=True"),
        ({"tls": True, "tls_ca": "/no/such"}, "cannot use the certificate in /no/such"),
        ({"tls": True, "tls_verify": False, "tls_key": "x"}, "go together"),
        ({"metadata": [("Upper", "x")]}, "not a lower-case header name"),
        ({"metadata": [("te", "x")]}, "is reserved"),
    ],
)
def test_peers_that_cannot_be(settings: dict[str, Any], part: str) -> None:
    """Settings that do not go together, and files that are not there, are named."""
    with pytest.raises((ValueError, TypeError), match=part):
        Peer(**({"address": "127.0.0.1:1"} | settings))
