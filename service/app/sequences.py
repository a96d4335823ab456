"""From what is said of a model's states to the engine that serves its sequences."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from service.config import Settings
from service.errors import ConfigError, LoadError
from service.inference.admission import SchedulerConfig
from service.inference.backend import Interrupt
from service.inference.policy import BatchPolicy
from service.inference.scheduler import Scheduler
from service.inference.sequences.assembly import Assembly
from service.inference.sequences.direct import DirectRunner
from service.inference.sequences.engine import SequenceEngine
from service.inference.sequences.runner import OldestRunner, Runner
from service.inference.sequences.sequence import Limits
from service.observability.stats import ModelStats
from service.pb.model_config_pb2 import ModelConfig
from service.repository.manifest import Manifest
from service.repository.sequences import Direct, Oldest, SequenceSpec
from service.repository.signature import Graph, ModelSpec, check_manifest, resolve
from service.repository.stateful import (
    Hidden,
    can_batch,
    configured,
    inferred,
    sequence_spec,
    unbatchable,
    visible_manifest,
)
from service.runtime.session import Session
from service.runtime.states import StateBackend
from service.runtime.warmup import gains_nothing_from_threads, proves_batching
from service.tensors import Tensors

_LOG = logging.getLogger(__name__)
_NO_BOUND: Final = 1 << 62  # the table and the transport bound what waits


@dataclass(frozen=True, slots=True)
class Sequences:
    """How the sequences of a version are served. model: of their requests, as clients see them."""

    model: ModelSpec
    spec: SequenceSpec

    def backend(self, session: Session, *, owns: bool = False) -> StateBackend:
        """Return a backend of their steps on a session; see StateBackend."""
        signature = self.spec.graph_signature(self.model.signature)
        return StateBackend(session, signature, self.spec.states, owns=owns)

    def filled(self, session: Session) -> "_Filled":
        """Return what runs requests as clients send them, each as the start of a sequence."""
        return _Filled(self.backend(session), Assembly("", self.spec, batched=self._batched))

    @property
    def _batched(self) -> bool:
        return self.model.signature.batched


class _Filled:
    """Runs the backend of steps on the inputs of clients alone."""

    def __init__(self, backend: StateBackend, assembly: Assembly) -> None:
        self._backend = backend
        self._assembly = assembly

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run each row as the first step of a sequence; see Backend.run."""
        batched = self._backend.signature.batched
        rows = len(next(iter(inputs.values()))) if batched else None
        return self._backend.run(self._assembly.first_inputs(inputs, rows), outputs, interrupt)


def find_sequences(
    session: Session,
    name: str,
    directory: Path,
    config: ModelConfig | None,
    manifest: Manifest | None,
    *,
    default_max_batch: int,
) -> Sequences | None:
    """Return how sequences of a version are served; None if it has no states.

    name, directory: of the model.
    Raises LoadError if its configuration contradicts the graph. States that are only inferred
    never keep a model from being loaded.
    """
    graph = Graph(session.inputs, session.outputs)
    hidden = configured(graph, config)
    if hidden is not None:
        if manifest is not None:
            check_manifest(graph, manifest)
        return _resolve(session, graph, hidden, config, manifest, directory, default_max_batch)
    if session.config.cuda_graphs:  # nothing may run beside a captured graph
        return None
    hidden = inferred(graph, manifest)
    if hidden is None:
        return None
    try:
        return _resolve(session, graph, hidden, config, manifest, directory, default_max_batch)
    except LoadError as error:
        _LOG.info("model %s: the states by %s are not kept: %s", name, hidden.source, error)
        return None


def _resolve(
    session: Session,
    graph: Graph,
    hidden: Hidden,
    config: ModelConfig | None,
    manifest: Manifest | None,
    directory: Path,
    default_max_batch: int,
) -> Sequences:
    visible, seen = hidden.visible(graph), hidden.visible_config(config)
    known = visible_manifest(manifest, hidden)
    if known is not None and not known.max_batch_size and can_batch(graph, hidden):
        known = None  # proved without a batch because a state has it on another axis than 0

    def attempt(*, batching: bool) -> Sequences:
        spec = resolve(visible, seen, known, batching=batching, default_max_batch=default_max_batch)
        if spec.reshaped is not None or any(one.optional for one in spec.signature.inputs):
            raise ConfigError("reshape and optional inputs of a model with states are not served")
        is_demanded = config is not None and config.max_batch_size > 0
        if spec.signature.batched and not is_demanded and unbatchable(graph, hidden, named=True):
            return attempt(batching=False)
        return Sequences(spec, sequence_spec(graph, hidden, spec, config, directory))

    found = attempt(batching=True)
    if found.model.is_proved:
        return found
    backend = found.backend(session)
    if proves_batching(backend, backend.signature):
        return replace(found, model=replace(found.model, is_proved=True))
    return attempt(batching=False)


def is_brief(session: Session, spec: ModelSpec, sequences: Sequences | None) -> bool:
    """Tell whether a second thread is of no use to the largest batch, of steps if it has states."""
    if session.config.intra_op_threads == 1:
        return False
    if sequences is None:
        return gains_nothing_from_threads(session, spec.graph, spec.max_batch_size)
    steps = sequences.backend(session)
    return gains_nothing_from_threads(steps, steps.signature, sequences.model.max_batch_size)


def sequence_engine(
    name: str,
    found: Sequences,
    session: Session,
    settings: Settings,
    *,
    instances: int,
    plain: Scheduler | None,
) -> SequenceEngine:
    """Return the engine of a version, started. plain: serves what belongs to no sequence."""
    spec, visible = found.spec, found.model.signature
    strategy = spec.strategy
    rows = max(1, found.model.max_batch_size)
    oldest = strategy if isinstance(strategy, Oldest) else Oldest(rows * instances)
    scheduler = Scheduler(
        name,
        found.backend(session, owns=plain is None),
        SchedulerConfig(
            BatchPolicy(rows, oldest.preferred_rows, oldest.max_delay_s),
            instances=instances,
            queue_requests=_NO_BOUND,
            queue_bytes=_NO_BOUND,
        ),
        stats=plain.stats if plain is not None else ModelStats(),
    )
    assembly = Assembly(name, spec, batched=visible.batched)
    limits = Limits(
        oldest.candidates,
        spec.backlog,
        spec.idle_s,
        settings.max_queue_requests,
        settings.max_queue_mib << 20,
        settings.max_state_mib << 20,
    )
    runner: Runner
    if isinstance(strategy, Direct):
        runner = DirectRunner(scheduler, assembly, visible, strategy, lanes=instances)
    else:
        runner = OldestRunner(scheduler, assembly, visible)
    engine = SequenceEngine(name, spec, visible, limits, runner, plain=plain)
    scheduler.start()
    engine.start()
    return engine
