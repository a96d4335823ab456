"""The proof of a file in a process of its own. Light: this process loads no runtime."""

from collections.abc import Mapping
from typing import Final

from exporter.children import run_child
from exporter.flow import Converted, Proven
from exporter.progress import Steps
from service.repository.manifest import Tolerance

_PROOF: Final = (
    "checking and proving the model in ONNX Runtime (FP16 models are known to crash it, and would "
    "crash a server too: export in FP32, with .float())"
)


def prove_apart(
    converted: Converted,
    tolerance: Tolerance | None,
    limits: Mapping[str, tuple[int, int]],
    steps: Steps,
    timeout_s: float,
) -> Proven:
    """Check a file and compare it with its source in a child: the runtime is native code.

    Raises ConversionFailed, VerificationFailed or ChildCrashed.
    """
    proven: Proven = run_child(
        "exporter.verify:prove_file",
        (converted, tolerance, limits),
        what=_PROOF,
        timeout_s=timeout_s,
        progress=steps.say,
    )
    return proven
