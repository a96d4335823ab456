"""What every kind of source has in common: what is asked of it, and what an open one can do.

A kind is a module of this package with three names:
  KIND: str                          how it is called in messages and manifests
  EXTRA, PACKAGES                    the extra that installs it, and the packages it imports
  opened(request) -> Opened          a context manager: loads the source, gives it back as it was
and, where it has them, TAKES_WEIGHTS = True, and environments(): variables to try it with in turn.
It imports its framework inside of functions: nobody pays for what he does not use.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from exporter.cases import Explain, Limits, Reference
from exporter.errors import UsageError
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


class Kind(Protocol):
    """A module that knows one kind of source."""

    KIND: str
    EXTRA: str
    PACKAGES: tuple[str, ...]

    def opened(self, request: Request) -> AbstractContextManager[Opened]:
        """Load the source. Raises UsageError, UnsafeArtefact, WeightsError, ConversionFailed."""
        ...


def refuse_weights(request: Request, kind: Kind) -> None:
    """Raise UsageError if weights are given for a source that brings its own."""
    if request.weights is not None and not getattr(kind, "TAKES_WEIGHTS", False):
        raise UsageError(
            f"--weights {request.weights}: a {kind.KIND} has its own; weights go with SOURCE that "
            "builds a PyTorch module or a Keras model: FILE.py:BUILDER",
        )


def require(what: str, packages: Sequence[str], extra: str) -> None:
    """Raise UsageError if a package of an extra is missing: the server is installed without."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} is not installed; {what} needs: pip install 'penstock[{extra}]'",
        )
