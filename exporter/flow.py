"""What the steps of an export hand to each other: plain data, files in a scratch directory.

Sources end at `Converted`: everything after it is ONNX and numpy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporter.cases import Case
from exporter.inputs import Inputs
from exporter.proof import Agreement
from exporter.states import Stepping
from service.repository.manifest import Axis, Tolerance
from service.repository.signature import Graph
from service.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Converted:
    """A source as ONNX, with what the source itself computed.

    model: the file, stripped, with names, opset and axes as asked for. cases: inputs of several
    sizes and the outputs of the source. labels: names of the classes where the source knows them.
    provenance: name of the source and digest of its weights. packages: versions of what took part.
    stepping: a sequence over its states, None if it has none.
    """

    model: Path
    inputs: Inputs
    outputs: tuple[str, ...]
    cases: tuple[Case, ...]
    opset: int
    labels: tuple[str, ...]
    provenance: Mapping[str, str]
    packages: Mapping[str, str] = field(default_factory=dict)
    stepping: Stepping | None = None

    @property
    def state(self) -> Mapping[str, str]:
        """Return the output of each state by the input that takes it next time."""
        return self.stepping.pairs if self.stepping is not None else {}


@dataclass(frozen=True, slots=True)
class Proven:
    """A model file that computes what its source computes.

    inputs, outputs: as ONNX Runtime sees the file; graph: the same with the names of free axes.
    axes: sizes that were compared.
    """

    model: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph: Graph
    axes: tuple[Axis, ...]
    tolerance: Tolerance
    agreement: Agreement
