"""What a reader is shown, and the line while he waits."""

import io

import pytest

from service.cli.bench.knee import Advice
from service.cli.bench.progress import Progress
from service.cli.bench.report import Subject, render
from service.cli.bench.result import Level, Load, ServerSide, level_of
from service.cli.bench.stability import Window
from tests.support.load import FakeSample

SUBJECT = Subject("mlp", "2", "localhost:1", "unary", 4, "x [4,3]", "client: a machine")
SERVER = ServerSide("trailers", 2e-5, 3e-5, 2.5)
ADVICE = Advice(0, 0, "the knee: the most throughput for its latency")


def level(sample: FakeSample, load: Load, end: str = "stable") -> Level:
    """Return a level of three windows."""
    return level_of(load, end, 3, sample, 4, SERVER)


CLOSED = level(FakeSample(12_345), Load(8, None, 1, 0))
OPEN = level(FakeSample(500, latency_s=12.5e-3, lag_s=5e-3), Load(None, 500.0, 1, 0))


def test_report_of_a_closed_loop() -> None:
    """Title, a row a load, legend and recommendation; every number with its unit."""
    assert render(SUBJECT, [CLOSED], ADVICE).splitlines() == [
        "mlp version 2 at localhost:1: unary, closed loop, 4 rows a request (x [4,3])",
        "client: a machine",
        (
            "LOAD  REQUESTS/S  MEAN   p50    p90    p95    p99    p99.9  MAX    QUEUE  COMPUTE"
            "  ROWS/RUN  FAILED  CLIENT  WAITED  WINDOWS"
        ),
        (
            "8     12,345      1.000  1.000  1.000  1.000  1.000  1.000  1.000  0.020  0.030  "
            "  2.5       0       10%     0%      3"
        ),
        "LOAD: requests in flight. Latencies in ms, from when a request was to be sent.",
        "CLIENT: share of a CPU that it had. WAITED: share of the time that it waited for one.",
        (
            "QUEUE, COMPUTE: means in the server, in ms, by its trailers. "
            "ROWS/RUN: rows in one run of the model."
        ),
        (
            "recommended: 8 in flight: 12,345 requests/s, p50 1.000 ms, p99 1.000 ms -- "
            "the knee: the most throughput for its latency"
        ),
    ]


def test_report_of_an_open_loop_says_who_was_late() -> None:
    """Rates are rates, and a client that could not keep its schedule is named."""
    text = render(SUBJECT, [OPEN], ADVICE)
    assert "open loop, Poisson arrivals" in text
    assert "\n500/s  500         12.5 " in text
    assert "\nat 500/s: requests were sent late, p99 5.0 ms" in text
    assert "recommended: 500/s arriving: 500 requests/s" in text


@pytest.mark.parametrize(
    ("end", "mark", "text"),
    [
        ("not stable", "3 *", "*: no three windows in a row agreed"),
        ("failing", "3 !", "!: no request was answered"),
        ("interrupted", "3 ^", "^: interrupted; what there was."),
    ],
)
def test_what_is_not_stable_is_marked(end: str, mark: str, text: str) -> None:
    """A mark in the row, and what it means below."""
    lines = render(SUBJECT, [level(FakeSample(), Load(1, None, 1, 0), end)], ADVICE).splitlines()
    assert lines[3].endswith(mark)
    assert any(line.startswith(text) for line in lines)


def test_failures_are_told_by_status() -> None:
    """Each status has its count and the first text, cut to a line; no answers have no latency."""
    sample = FakeSample(0, failures=[(8, 1234, "so\nfull " + "x" * 500), (14, 1, "")], reconnects=2)
    lines = render(
        SUBJECT, [level(sample, Load(1, None, 1, 0))], Advice(None, None, "nothing was answered")
    ).splitlines()
    assert lines[3].split()[1:9] == ["0", *["-"] * 7]
    assert "1,235" in lines[3]
    (first,) = (line for line in lines if "RESOURCE_EXHAUSTED" in line)
    assert first.startswith("at 1: 1,234 failed with RESOURCE_EXHAUSTED: so full xxx")
    assert len(first) < 220
    assert "at 1: 1 failed with UNAVAILABLE" in lines
    assert "at 1: connections were lost 2 times" in lines
    assert lines[-1] == "recommended: none, nothing was answered"


def test_loads_that_were_held_up_alike_share_a_note() -> None:
    """What held up the client is said once, with the loads that it is true of."""
    levels = [
        level(FakeSample(usage=[(0.1, 0.2, share)]), Load(count, None, 1, 0))
        for count, share in ((1, 0.5), (2, 0.1), (4, 0.3))
    ]
    lines = render(SUBJECT, levels, ADVICE).splitlines()
    assert [line.split()[-2] for line in lines[3:6]] == ["50%", "10%", "30%"]
    assert "at 1, 4: the client waited for a CPU, and latencies have a part of that" in lines


def test_knee_is_told_beside_another_recommendation() -> None:
    """Where a limit recommends another load than the knee, both are shown."""
    second = level(FakeSample(20_000), Load(64, None, 3, 16))
    lines = render(SUBJECT, [CLOSED, second], Advice(0, 1, "why")).splitlines()
    assert lines[-2].startswith("knee: 8 in flight: 12,345 requests/s")
    assert lines[-1].startswith("recommended: 64 in flight on 16 streams over 3 connections: ")


def test_nothing_measured() -> None:
    """No load, no table."""
    assert render(SUBJECT, [], ADVICE) == "nothing was measured"


def test_progress_is_for_terminals_only() -> None:
    """A terminal sees one line that is wiped at the end; a file sees nothing."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        progress = Progress(stream)
        progress.begin("8", 2, 7)
        progress.window(1, Window(12_345.0, 1e-3))
        progress.end()
        lines = stream.getvalue().split("\r\x1b[K")
        assert lines == (
            ["", "load 8 (2 of 7): warming up",
             "load 8 (2 of 7): window 1, 12,345 requests/s, p99 1.000 ms", ""]
            if shown else [""]
        )  # fmt: skip
