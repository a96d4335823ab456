"""NVIDIA's perf_analyzer, a C++ client, against Penstock.

It reads metadata, configuration and statistics before and after it sends, crashes on answers that
lack a raw tensor, and waits for ever for one without its id.
"""

import re
import subprocess

import grpc
import pytest

from tests.support.stub import Stub

_REQUESTS = 200
_RUN_S = 60.0


@pytest.mark.foreign
@pytest.mark.client("perf_analyzer")
@pytest.mark.parametrize(
    ("rows", "options"),
    [
        pytest.param(1, ["-m", "simple"], id="blocking"),
        pytest.param(4, ["-m", "simple", "-b", "4", "--async"], id="async-batches"),
        pytest.param(1, ["-m", "simple", "--async", "--streaming"], id="stream"),
        pytest.param(1, ["-m", "simple", "--grpc-compression-algorithm", "gzip"], id="gzip"),
        pytest.param(
            1,
            ["-m", "identity_bytes", "--shape", "X:4", "--string-length", "16"],
            id="bytes",
        ),
        pytest.param(1, ["-m", "identity_fp16", "--shape", "X:64"], id="fp16"),
    ],
)
def test_perf_analyzer(
    rows: int, options: list[str], perf_analyzer: list[str], address: str
) -> None:
    """Every request is answered, and the server's statistics count what the client has sent."""
    model = options[1]
    with grpc.insecure_channel(address) as channel:
        before = Stub(channel).stats_of(model)
        report = measure([*perf_analyzer, "-u", address, *options])
        after = Stub(channel).stats_of(model)
    assert number("Request count", report) == _REQUESTS
    assert after.inference_stats.success.count - before.inference_stats.success.count == _REQUESTS
    assert after.inference_count - before.inference_count == _REQUESTS * rows
    # Its own look at the statistics begins when the first requests may have been answered.
    assert 0 < number("Successful request count", report) <= _REQUESTS


def measure(command: list[str]) -> str:
    """Let perf_analyzer send its requests, four at a time, and return its report."""
    run = subprocess.run(
        [
            *command,
            *("--service-kind", "triton", "-i", "grpc"),
            *("--request-count", str(_REQUESTS), "--concurrency-range", "4"),
        ],
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    assert (run.returncode, run.stderr.strip()) == (0, ""), run.stdout
    return run.stdout


def number(name: str, report: str) -> int:
    """Return what the report says of a count."""
    found = re.search(rf"^\s*{name}: (\d+)$", report, re.MULTILINE)
    assert found, report
    return int(found[1])
