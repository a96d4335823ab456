"""What kinds of variants there are, and which are worth a try for a graph. No onnx, no runtime."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from exporter.errors import UsageError
from service.repository.manifest import SessionOptions

INT8_DYNAMIC: Final = "int8-dynamic"
INT8_STATIC: Final = "int8-static"
W4: Final = "w4"
FP16: Final = "fp16"
KINDS: Final = (INT8_DYNAMIC, INT8_STATIC, W4, FP16)
AUTO: Final = "auto"
NONE: Final = "none"
REQUESTS: Final = (AUTO, *KINDS, NONE)
DEVICES: Final = ("cpu", "cuda")
DEFAULT_OPTIONS: Final = SessionOptions()

_LINEAR: Final = ("MatMul", "Gemm")
# Below this share the layers that dynamic quantisation makes faster are not where the time goes.
_MOSTLY: Final = 0.5


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """What decides about the variants of a graph.

    operators: how often each operator occurs. weights: bytes of the initializers by the operator
    that reads them. file_bytes: of the model with its external data.
    """

    operators: Mapping[str, int]
    weights: Mapping[str, int]
    file_bytes: int

    def share(self, *operators: str) -> float:
        """Return the share of the weights' bytes that these operators read."""
        total = sum(self.weights.values())
        return sum(self.weights.get(op, 0) for op in operators) / total if total else 0.0


@dataclass(frozen=True, slots=True)
class Variant:
    """A file that was made from another.

    changed: how the count of each operator differs; empty if the file is the same in substance,
    which `note` then says. options: what it needs to be loaded with.
    """

    kind: str
    path: Path
    file_bytes: int
    changed: Mapping[str, int] = field(default_factory=dict)
    options: SessionOptions = DEFAULT_OPTIONS
    note: str = ""


def sensible(facts: GraphFacts, *, calibrated: bool, device: str) -> tuple[str, ...]:
    """Return the kinds that `auto` tries, by what the graph is made of.

    On CPUs: static int8 where there is calibration data; dynamic int8 only where linear layers
    hold most weights and no convolution is (it makes convolutions up to 8 times slower). On GPUs
    fp16. 4-bit weights are never tried unasked: their error shows only in a task's metric.
    """
    if device == "cuda":
        return (FP16,)
    convolves = any(op in facts.operators for op in ("Conv", "ConvTranspose"))
    linear = any(op in facts.operators for op in _LINEAR)
    kinds = []
    if calibrated and (convolves or linear):
        kinds.append(INT8_STATIC)
    if linear and not convolves and facts.share(*_LINEAR) >= _MOSTLY:
        kinds.append(INT8_DYNAMIC)
    return tuple(kinds)


def check_request(request: str, device: str, *, calibrated: bool) -> None:
    """Raise UsageError for a kind or a device that does not exist, or lacks what it needs."""
    if request not in REQUESTS:
        raise UsageError(f"--quantize {request!r}: expected one of {', '.join(REQUESTS)}")
    if device not in DEVICES:
        raise UsageError(f"--device {device!r}: expected one of {', '.join(DEVICES)}")
    if request == INT8_STATIC and not calibrated:
        raise UsageError(
            "int8-static needs calibration data: --calibration FILE.npz with some hundred rows "
            "of the training data, one array for each input",
        )


def session_candidates(facts: GraphFacts) -> tuple[SessionOptions, ...]:
    """Return the session options besides the default that may make this graph faster on a CPU.

    ONNX Runtime fuses Add and LayerNormalization into SkipLayerNormalization, whose CPU kernel
    is slower than the two; without that fusion encoders gain 10 to 30 %.
    """
    if "LayerNormalization" not in facts.operators:
        return ()
    return (
        SessionOptions(disabled_optimizers=("SkipLayerNormFusion",)),
        SessionOptions(graph_level="basic"),
    )


def described(options: SessionOptions) -> str:
    """Return session options in words, "default" for what a server does untold."""
    level = options.graph_level
    parts = [] if level == "all" else [f"graph level {level}"]
    parts += [f"without {name}" for name in options.disabled_optimizers]
    return ", ".join(parts) or "default"
