"""What the figures were measured on."""

import os
import platform
import time
from pathlib import Path
from typing import Final

import onnxruntime as ort

from service.runtime.cpus import read_cpus

_NAP_S: Final = 0.001
_NAPS: Final = 1000


def wake_up_delays_ms() -> tuple[float, float]:
    """Return by how much a thread that slept is late, p50 and p99: no server can be better."""
    late = []
    for _ in range(_NAPS):
        before = time.perf_counter()
        time.sleep(_NAP_S)
        late.append((time.perf_counter() - before - _NAP_S) * 1e3)
    late.sort()
    return late[_NAPS // 2], late[_NAPS * 99 // 100]


def describe_machine() -> str:
    """Return CPUs, kernel, versions and how busy the machine was, in one line."""
    info = Path("/proc/cpuinfo").read_text()
    model = info.partition("model name")[2].partition("\n")[0].lstrip("\t: ") or "unknown CPU"
    return (
        f"{read_cpus()} ({model}), Linux {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}, ONNX Runtime {ort.__version__}, "
        f"load average before {os.getloadavg()[0]:.1f}"
    )
