"""What an export costs: seconds and memory of the command against `torch.onnx.export` alone.

    python benchmarks/export_cost.py [--rounds 5]

Both are cold processes that take turns. Memory is the peak of the whole process tree: resident
pages, shared ones divided over the processes that share them (PSS), read every 10 ms.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_ALONE: Final = """
import sys, torch
from examples.digits.model import build_model, example_inputs
torch.onnx.export(
    build_model().eval(), kwargs=example_inputs(), dynamo=True, verbose=False, opset_version=20,
    dynamic_shapes={"image": {0: "batch"}}, output_names=["logits"],
).save(sys.argv[1] + "/model.onnx")
"""
_READ_EVERY_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run: wall-clock and CPU seconds, peak memory in MB."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    rounds = parser.parse_args().rounds
    commands = {
        "torch.onnx.export alone": [sys.executable, "-c", _ALONE],
        "penstock-export": [
            sys.executable, "-m", "exporter", "examples.digits.model:build_model", "--name", "m",
            "--quiet", "--repository",
        ],
    }  # fmt: skip
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as place:
                costs[name].append(measure([*command, place]))
    print(f"{'':<26}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}")
    for name, found in costs.items():
        wall, cpu, peak = (
            statistics.median(getattr(cost, field) for cost in found)
            for field in ("wall_s", "cpu_s", "peak_mb")
        )
        print(f"{name:<26}{wall:>9.2f}{cpu:>9.2f}{peak:>9.0f}")
    alone, ours = (statistics.median(cost.peak_mb for cost in costs[name]) for name in commands)
    print(f"memory: {ours / alone:.2f} times that of torch.onnx.export alone")
    return 0


def measure(command: list[str]) -> Cost:
    """Run a command and return what it cost, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(_pss_mb(pid) for pid in _tree(process.pid)))
        time.sleep(_READ_EVERY_S)
    wall = time.monotonic() - start
    if process.returncode:
        raise SystemExit(f"{command[:3]} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, peak)


def _tree(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in children for found in _tree(int(child)))]


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
