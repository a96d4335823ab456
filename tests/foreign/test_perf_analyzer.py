"""NVIDIA's perf_analyzer, a C++ client, against Penstock.

It reads metadata, configuration and statistics before and after it sends, crashes on answers that
lack a raw tensor, and waits for ever for one without its id.
"""

import json
import re
import subprocess
from pathlib import Path

import grpc
import pytest

from tests.support.stub import Stub
from tests.support.tap import Tap
from tests.support.waiting import eventually

_REQUESTS = 50  # of a window, at least
_TRACE = ["--trace-level", "TIMESTAMPS", "--trace-rate", "1"]
_SHARED = ["--shared-memory", "system", "--output-shared-memory-size", "1024"]
_UNARY_SEQUENCES = ["-m", "simple_sequence", "--sequence-length", "4"]
_RUN_S = 60.0


@pytest.mark.foreign
@pytest.mark.client("perf_analyzer")
@pytest.mark.parametrize(
    ("rows", "options"),
    [
        pytest.param(1, ["-m", "simple"], id="blocking"),
        pytest.param(4, ["-m", "simple", "-b", "4"], id="batches"),
        pytest.param(4, ["-m", "simple", "-b", "4", "--async"], id="async-batches"),
        pytest.param(1, ["-m", "simple", "-x", "1"], id="version"),
        pytest.param(1, ["-m", "simple", *_SHARED], id="shared-memory"),
        pytest.param(1, ["-m", "simple", *_SHARED, "--async", "--streaming"], id="shared-stream"),
        pytest.param(1, _UNARY_SEQUENCES, id="sequences"),
        pytest.param(
            1,
            [*_UNARY_SEQUENCES, "--async", "--streaming"],
            id="sequences-stream",
        ),
        pytest.param(1, ["-m", "simple", "--async", "--streaming"], id="stream"),
        pytest.param(1, ["-m", "simple", "--grpc-compression-algorithm", "gzip"], id="gzip"),
        pytest.param(1, ["-m", "simple", *_TRACE], id="trace"),
        pytest.param(
            1,
            ["-m", "identity_bytes", "--shape", "INPUT0:4", "--string-length", "16"],
            id="bytes",
        ),
        pytest.param(1, ["-m", "identity_fp16", "--shape", "INPUT0:64"], id="fp16"),
    ],
)
def test_perf_analyzer(
    rows: int,
    options: list[str],
    perf_analyzer: list[str],
    examples: str,
    examples_tap: Tap,
    transport: str,
) -> None:
    """Every request is answered, and the server's statistics count what the wire has seen."""
    if options == _UNARY_SEQUENCES and transport == "threaded":
        # When it stops, it sends the END of a sequence without waiting for the request before, and
        # grpcio gives calls of their own to its threads in any order.
        pytest.skip("calls of their own have no order on the threaded transport")
    model = options[1]
    with grpc.insecure_channel(examples_tap.upstream) as channel:
        before = Stub(channel).stats_of(model)
        report = measure([*perf_analyzer, "-u", examples, *options])

        def counted() -> bool:
            after = Stub(channel).stats_of(model)
            success = after.inference_stats.success.count - before.inference_stats.success.count
            rows_run = after.inference_count - before.inference_count
            sent, answered = infers(examples_tap)
            return sent == answered == success and rows_run == sent * rows

        eventually(counted, "the statistics count every request of the wire")
    sent, _ = infers(examples_tap)
    # Its windows begin after its first requests and end before its last ones.
    assert 0 < number("Request count", report) <= sent
    assert 0 < number("Successful request count", report) <= sent


@pytest.mark.foreign
@pytest.mark.client("perf_analyzer")
def test_decoupled(
    perf_analyzer: list[str], examples: str, examples_tap: Tap, tmp_path: Path
) -> None:
    """Requests with three answers each are over when the last has come."""
    tensors = {"IN": [1, 2, 3], "DELAY": [0, 0, 0], "WAIT": [0]}
    data = [{name: {"content": v, "shape": [len(v)]} for name, v in tensors.items()}]
    content = tmp_path / "data.json"
    content.write_text(json.dumps({"data": data}))
    options = ["-m", "repeat_int32", "--async", "--streaming", "--input-data", str(content)]
    report = measure([*perf_analyzer, "-u", examples, *options])
    sent, answered = infers(examples_tap)
    assert answered == 4 * sent > 0  # it asks for the empty one at the end
    throughput = [float(value) for value in re.findall(r"hroughput: ([\d.]+) infer/sec", report)]
    assert throughput[1] == pytest.approx(3 * throughput[0], rel=0.1)  # its windows cut answers off


def infers(tap: Tap) -> tuple[int, int]:
    """Count the requests for inference that went by, and their answers."""
    calls = [call for call in tap.calls if call.path.endswith("Infer")]
    return sum(call.sent for call in calls), sum(call.answers for call in calls)


def measure(command: list[str]) -> str:
    """Let perf_analyzer measure three short windows, four requests at a time; return its report.

    It has no end where it is to send so many requests and no more: if it is slow to begin, its
    window misses the first ones, and it waits for ever for the rest.
    """
    windows = ("--measurement-mode", "count_windows", "--measurement-request-count", str(_REQUESTS))
    run = subprocess.run(
        [
            *(*command, "--service-kind", "triton", "-i", "grpc", "--concurrency-range", "4"),
            *(*windows, "--stability-percentage", "999"),
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
