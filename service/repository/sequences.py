"""How a model keeps state between the requests of a sequence: what is said of it, in one place.

A state is an output that goes into an input at the next step; a control is an input that tells
the model where in its sequence a step is. Clients see neither.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from service.tensors import Array, Datatype, Shape, Signature, TensorSpec

DEFAULT_IDLE_US: Final = 1_000_000
DEFAULT_CANDIDATES: Final = 1024
DEFAULT_BACKLOG: Final = 1024


# Parameters of a normalised configuration that tell what was inferred: "h0=hn,c0=cn", and by what.
INFERRED: Final = "inferred_states"
INFERRED_BY: Final = "inferred_states_by"


class Control(Enum):
    """What a control input tells the model."""

    START = "CONTROL_SEQUENCE_START"
    READY = "CONTROL_SEQUENCE_READY"
    END = "CONTROL_SEQUENCE_END"
    CORRID = "CONTROL_SEQUENCE_CORRID"


class Scope(Enum):
    """What the id of a sequence is private to. DEFAULT: the model, or by --stream-state."""

    DEFAULT = ""
    ID = "id"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class StateSpec:
    """An output that goes into an input at the next step of its sequence.

    shape: of one sequence's state, without the batch; -1: any extent. axis: the batch's place in
    the graph's tensor. initial: what a sequence starts from, [1, *extents] of a batched model.
    is_output: clients are given the output as well.
    """

    input: str
    output: str
    datatype: Datatype
    shape: Shape
    axis: int
    initial: Array
    is_output: bool = False


@dataclass(frozen=True, slots=True)
class ControlSpec:
    """An input that the server fills. false, true: values, each an array of one row.

    Both are absent of a CORRID. shape: without the batch; all ones.
    """

    name: str
    kind: Control
    datatype: Datatype
    shape: Shape
    false: Array | None = None
    true: Array | None = None


@dataclass(frozen=True, slots=True)
class Oldest:
    """Steps of any sequences form a batch, in the order of arrival."""

    candidates: int = DEFAULT_CANDIDATES
    preferred_rows: tuple[int, ...] = ()
    max_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Direct:
    """A sequence has a row of the batch for as long as it lives.

    max_delay_s: how long the oldest step may wait until min_utilization of the rows are ready.
    """

    max_delay_s: float = 0.0
    min_utilization: float = 0.0


@dataclass(frozen=True, slots=True)
class SequenceSpec:
    """How the sequences of a model are served.

    source: where it is said. is_inferred: the model can also be called without a sequence, its
    states being ordinary inputs and outputs then. backlog: sequences that may wait for a place.
    is_final_only: only the END of a sequence is answered with outputs.
    """

    states: tuple[StateSpec, ...]
    controls: tuple[ControlSpec, ...] = ()
    strategy: Oldest | Direct = Oldest()
    idle_s: float = DEFAULT_IDLE_US / 1e6
    backlog: int = DEFAULT_BACKLOG
    scope: Scope = Scope.DEFAULT
    is_final_only: bool = False
    is_inferred: bool = False
    source: str = "config.pbtxt"

    def graph_signature(self, visible: Signature) -> Signature:
        """Return what the backend takes and gives, with the batch first in every tensor.

        visible: what clients send and get.
        """
        lead = (-1,) if visible.batched else ()
        hidden = [TensorSpec(c.name, c.datatype, (*lead, *c.shape)) for c in self.controls]
        hidden += [TensorSpec(s.input, s.datatype, (*lead, *s.shape)) for s in self.states]
        given = {spec.name for spec in visible.outputs}
        results = [
            TensorSpec(s.output, s.datatype, (*lead, *s.shape))
            for s in self.states
            if s.output not in given
        ]
        return Signature((*visible.inputs, *hidden), (*visible.outputs, *results), visible.batched)
