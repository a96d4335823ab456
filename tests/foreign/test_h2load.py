"""h2load, which knows HTTP/2 and nothing of gRPC, against Penstock.

It takes every answer with the status 200 of HTTP for a success, so the server's own count tells
whether the requests were served.
"""

import re
import shutil
import subprocess
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.tensors import INT32
from tests.foreign.conftest import missing
from tests.support.requests import raw_request
from tests.support.stub import SERVICE, Stub
from tests.support.tap import Tap
from tests.support.waiting import eventually

_REQUESTS = 2000
_RUN_S = 60.0


@pytest.mark.foreign
@pytest.mark.client("h2load")
def test_h2load(examples: str, examples_tap: Tap, tmp_path: Path) -> None:
    """Two thousand requests on four connections are all answered, and all served."""
    program = shutil.which("h2load")
    if program is None:
        missing("h2load is not on PATH", "install it (Debian: nghttp2-client)")
    values = np.arange(16, dtype=np.int32).reshape(1, 16)
    request = raw_request("simple", dict.fromkeys(("INPUT0", "INPUT1"), (INT32, values)))
    message = request.SerializeToString()
    body = tmp_path / "body"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    with grpc.insecure_channel(examples_tap.upstream) as channel:
        before = Stub(channel).stats_of("simple").inference_stats.success.count

        def counted() -> int:
            after = Stub(channel).stats_of("simple").inference_stats.success.count
            return after - before

        run = subprocess.run(
            [
                *(program, "-n", str(_REQUESTS), "-c", "4", "-m", "16", "-d", str(body)),
                *("-H", "content-type: application/grpc", "-H", "te: trailers"),
                f"http://{examples}{SERVICE}/ModelInfer",
            ],
            capture_output=True, text=True, timeout=_RUN_S, check=False,
        )  # fmt: skip
        counts = re.search(r"requests: \d+ total, .* (\d+) succeeded, (\d+) failed", run.stdout)
        assert counts, run.stdout + run.stderr
        assert counts.groups() == (str(_REQUESTS), "0"), run.stdout
        eventually(lambda: counted() == _REQUESTS, "the statistics count every request")
