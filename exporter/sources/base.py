"""What every kind of source has in common: what is asked of it, and what an open one can do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.cases import Explain, Limits, Reference
from exporter.inputs import DynamicAxes, Inputs, Ranges
from exporter.specs import InputSpec

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be converted, and how. A process that has it can do it.

    source: SOURCE as text, or a live object of one of the frameworks. label: where it came from,
    for the manifest; default: SOURCE without directories, or the class of the object.
    examples: as the framework takes them, or arrays by input name; None: of specs, or of the
    source itself. specs: `--input`, parsed.
    batch_buckets: sizes of batches to prove besides the usual ones. limits: sizes of free axes.
    trust_pickle: files that can run code when they are loaded may be. allow_globals: the names
    that a pickle may hold, as "package.Name", without being trusted as a whole.
    state: output by the input that takes it at the next step.
    has_samples: examples are the user's own data, not only made up from specs.
    """

    source: Any
    name: str = "model"
    label: str = ""
    opset: int = 20
    batch: bool = True
    max_batch_size: int = 64
    seed: int = 0
    weights: Path | None = None
    specs: tuple[InputSpec, ...] = ()
    examples: Any = None
    ranges: Ranges = field(default_factory=dict)
    dynamic_axes: DynamicAxes = field(default_factory=dict)
    input_names: tuple[str, ...] | None = None
    output_names: tuple[str, ...] | None = None
    batch_buckets: tuple[int, ...] = ()
    limits: Limits = field(default_factory=dict)
    trust_pickle: bool = False
    allow_globals: tuple[str, ...] = ()
    state: Mapping[str, str] = field(default_factory=dict)
    has_samples: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """A source that was loaded.

    run: computes the outputs, in order. convert: writes it down in ONNX, with the names of inputs
    and outputs; called at most once. explain: words for what run may raise. opset: of the graph.
    labels: of classes, where the source knows them. provenance: what it is, for the manifest.
    packages: those that took part, if others than those of the kind.
    """

    inputs: Inputs
    outputs: tuple[str, ...]
    run: Reference
    convert: Callable[[], "ir.Model"]
    opset: int
    provenance: Mapping[str, str]
    labels: tuple[str, ...] = ()
    explain: Explain | None = None
    packages: tuple[str, ...] = ()
