"""ONNX Runtime in process, without any network: the limit. One run after another on one thread.

    python -m benchmarks.inprocess MODEL.onnx THREADS ROWS

For each line with a number of seconds on stdin it writes one with rows a second and CPU us a row.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort


class InProcess:
    """This program as a child, asked for a measurement from time to time."""

    def __init__(self, model: Path, threads: int, rows: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.inprocess", str(model), str(threads), str(rows)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        )
        self._ask(b"")

    def measure(self, seconds: float) -> tuple[float, float]:
        """Return rows a second and CPU us a row."""
        rate, cpu_us = self._ask(b"%f\n" % seconds).split()
        return float(rate), float(cpu_us)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: bytes) -> bytes:
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("benchmarks.inprocess has no pipes")
        self._process.stdin.write(line)
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit("benchmarks.inprocess has ended; see above")
        return answer


def main(path: str, threads: int, rows: int) -> None:
    """Answer until stdin ends."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as Penstock does
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (source,), (target,) = session.get_inputs(), session.get_outputs()
    feeds = {source.name: np.ones((rows, *source.shape[1:]), np.float32)}
    for _ in range(10):
        session.run([target.name], feeds)
    print("ready", flush=True)
    for line in sys.stdin:
        runs, cpu, started = 0, time.process_time(), time.perf_counter()
        until = started + float(line)
        while time.perf_counter() < until:
            for _ in range(4):  # so that looking at the clock costs less than the digits MLP
                session.run([target.name], feeds)
            runs += 4
        elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(runs * rows / elapsed, cpu / (runs * rows) * 1e6, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
