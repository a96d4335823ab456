"""`penstock bench` as the client, where latency at a given rate is what is asked."""

import json
import subprocess
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """Seconds from when a request was to be sent; per_second: of answers."""

    p50_s: float
    p99_s: float
    per_second: float


def latency_at(
    address: str, *flags: str, model: str = "model", rate: float = 0.0, seconds: float = 3.0
) -> Latency:
    """Send at this rate at random, or as fast as `--concurrency` among the flags allows."""
    load = ["--rate", f"{rate:g}"] if rate else []
    timing = ["--warm-up-s", "0.5", "--window-s", f"{seconds / 3:g}", "--max-s", f"{seconds:g}"]
    run = subprocess.run(
        [sys.executable, "-m", "service", "bench", address, "--model", model, "--json", "-",
         *load, *timing, *flags],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        (level,) = json.loads(run.stdout)["levels"]
    except ValueError:
        reason = run.stderr.strip().rpartition("\n")[2]
        raise SystemExit(f"penstock bench failed: {reason}") from None
    if level["failed"]:
        raise SystemExit(f"penstock bench: {level['failed']} requests failed: {level['failures']}")
    latency = level["latency"]
    return Latency(latency["p50_s"], latency["p99_s"], level["per_second"])
