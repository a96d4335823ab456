"""A model version that serves: what the RPCs need to know of it, in one place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.inference.engine import Engine
from service.inference.sequences.engine import SequenceEngine
from service.pb.model_config_pb2 import ModelConfig
from service.tensors import Signature


@dataclass(frozen=True, slots=True)
class Model:
    """One version, loaded and warm.

    version: decimal, as in responses. config: normalised. provider: execution provider that
    runs it. size_bytes: of its model file. load_s: seconds from file to ready. threads: of one run.
    labels: names of the elements of outputs, by output and index.
    sequences: the scheduler, if it keeps states.
    """

    name: str
    version: str
    signature: Signature
    config: ModelConfig
    scheduler: Engine
    provider: str
    size_bytes: int = 0
    load_s: float = 0.0
    threads: int = 1
    decoupled: bool = False
    may_bundle: bool = True
    notes: tuple[str, ...] = field(default=())
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sequences: SequenceEngine | None = None

    def close(self, timeout: float) -> bool:
        """Answer what was accepted, then free the model; see Scheduler.close."""
        return self.scheduler.close(timeout)
