"""What the figures were measured on."""

import os
import platform
from pathlib import Path

import onnxruntime as ort

from service.runtime.cpus import read_cpus


def describe_machine() -> str:
    """Return CPUs, kernel, versions and how busy the machine was, in one line."""
    info = Path("/proc/cpuinfo").read_text()
    model = info.partition("model name")[2].partition("\n")[0].lstrip("\t: ") or "unknown CPU"
    return (
        f"{read_cpus()} ({model}), Linux {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}, ONNX Runtime {ort.__version__}, "
        f"load average before {os.getloadavg()[0]:.1f}"
    )
