"""From the files of a version to a model that serves: load, resolve, prove, warm up, schedule."""

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from service.app.placement import Placement
from service.app.policies import batch_policy, queue_policy
from service.app.python_models import check_allowed, load_python, python_file
from service.app.sequences import Sequences, find_sequences, is_brief, sequence_engine
from service.config import Settings
from service.errors import LoadError, ManifestError
from service.inference.admission import SchedulerConfig
from service.inference.backend import Backend
from service.inference.engine import Engine
from service.inference.model import Model
from service.inference.reshape import ReshapingBackend
from service.inference.scheduler import Scheduler
from service.inference.sequences.engine import SequenceEngine
from service.pb.model_config_pb2 import ModelConfig
from service.repository.labels import read_labels
from service.repository.layout import PYTHON_FILE, ModelSource, VersionSource
from service.repository.manifest import MODEL_FILE, Manifest, check_files, read_manifest
from service.repository.model_config import PYTHON, read_config
from service.repository.signature import Graph, ModelSpec, normalised, resolve
from service.repository.signing import PublicKey
from service.repository.stateful import tell_inferred
from service.runtime.bound import backend_of
from service.runtime.buckets import bucket_sizes
from service.runtime.cpus import Cpus, read_cpus
from service.runtime.providers import CUDA
from service.runtime.session import OnnxBackend, Session, SessionConfig
from service.runtime.strings import MovedStrings, only_moves_strings
from service.runtime.threads import ONE_THREAD, ThreadPlan
from service.runtime.warmup import (
    proves_batching,
    replay_golden,
    run_warmups,
    warm_up,
)
from service.tensors import BYTES

_LOG = logging.getLogger(__name__)


class ModelLoader:
    """Loads versions by the settings of the server, and divides its CPUs over them."""

    def __init__(self, settings: Settings, cpus: Cpus | None = None) -> None:
        """cpus: what the models may use; None: what this process may.

        Raises SettingsError if the key of --require-signature cannot be used.
        """
        self._settings = settings
        self._placement = Placement(settings, cpus or read_cpus())
        key = settings.require_signature
        self._key = PublicKey(Path(key)) if key else None

    def plan(self, sources: Iterable[ModelSource]) -> None:
        """Divide the CPUs over what the sources will serve. What is loaded keeps its threads."""
        readable = []
        for source in sources:
            with suppress(LoadError):  # said when the model is loaded
                config = self.read_config(source)
                if not _is_code(config):  # its threads are its own affair
                    readable.append((source, config))
        self._placement.plan(readable)

    def read_config(self, source: ModelSource) -> ModelConfig | None:
        """Return the configuration of a model: config.pbtxt, or what counts in its place.

        Raises ConfigError.
        """
        return source.config if source.config is not None else read_config(source.directory)

    def load(self, source: VersionSource, config: ModelConfig | None) -> Model:
        """Return the version, warm and scheduled. Raises LoadError with the reason.

        A model that cannot be captured as CUDA graphs is loaded without, and its notes say so.
        """
        if config is not None and _is_code(config):
            return self._load_code(source, config)
        graphs = self._placement.wants_graphs(config)
        if graphs and config is not None and config.HasField("sequence_batching"):
            graphs = False  # steps run beside each other, which captured graphs forbid
        try:
            return self._load(source, config, [], graphs=graphs)
        except LoadError as error:
            if not graphs:
                raise
            model = self._load(source, config, [str(error)], graphs=False)
            _LOG.warning("model %s version %d: %s", source.model, source.version, error)
            return model

    def _load(
        self,
        source: VersionSource,
        config: ModelConfig | None,
        notes: list[str],
        *,
        graphs: bool,
    ) -> Model:
        started = time.monotonic()
        threads = self._placement.threads(source.model, config)
        manifest = self._manifest(source, notes)
        path = source.model_file(config.default_model_filename if config is not None else "")
        if not path.is_file() and (source.directory / PYTHON_FILE).is_file():
            raise LoadError(
                f"{path}: no such file; {PYTHON_FILE} is there, and is a model if config.pbtxt has "
                'backend: "python"'
            )
        options = manifest.session if manifest is not None else None
        wanted = self._placement.session_config(threads, config, options)
        _check_memory(path, wanted)
        session = Session(path, replace(wanted, cuda_graphs=graphs))
        try:
            sequences = self._sequences(session, source, config, manifest)
            if sequences is not None and not sequences.spec.is_inferred:
                spec = sequences.model
            else:
                spec = self._resolve(session, source, config, manifest, notes)
            if sequences is None and _takes_bytes(session, spec):
                spec = replace(spec, signature=replace(spec.signature, takes_bytes=True))
            if threads.is_share and is_brief(session, spec, sequences):
                wide, threads = session, ONE_THREAD
                session = Session(path, replace(session.config, intra_op_threads=threads.threads))
                wide.close()
            labels = read_labels(source.model_directory, source.directory, config, manifest)
            self._prepare(session, source, spec, config, manifest, sequences)
            model = self._schedule(session, source, spec, config, started, notes, sequences)
            model = replace(model, labels=labels)
        except BaseException:  # whatever it is, the session must not outlive it
            session.close()
            raise
        _log_ready(model, threads)
        return model

    def _load_code(self, source: VersionSource, config: ModelConfig) -> Model:
        """Load a version of backend python. Raises LoadError."""
        check_allowed(source, config, self._settings)
        notes: list[str] = []
        manifest = self._manifest(source, notes, python_file(source, config).name)
        labels = read_labels(source.model_directory, source.directory, config, manifest)
        model = load_python(source, config, self._settings, manifest, notes)
        return replace(model, labels=labels)

    def _manifest(
        self, source: VersionSource, notes: list[str], model_file: str = MODEL_FILE
    ) -> Manifest | None:
        if self._key is not None:
            _check_signature(self._key, source)
        manifest = None if source.file is not None else read_manifest(source.directory)
        if manifest is None:
            notes.append("no manifest: its files are not checked against digests")
            return None
        check_files(source.directory, manifest, model_file)
        return manifest

    def _sequences(
        self,
        session: Session,
        source: VersionSource,
        config: ModelConfig | None,
        manifest: Manifest | None,
    ) -> Sequences | None:
        return find_sequences(
            session,
            source.model,
            source.model_directory,
            config,
            manifest,
            default_max_batch=self._settings.max_batch_size,
        )

    def _resolve(
        self,
        session: Session,
        source: VersionSource,
        config: ModelConfig | None,
        manifest: Manifest | None,
        notes: list[str],
    ) -> ModelSpec:
        graph = Graph(session.inputs, session.outputs, session.defaults)
        largest = self._settings.max_batch_size
        spec = resolve(graph, config, manifest, default_max_batch=largest)
        if not (spec.is_proved or proves_batching(session, spec.signature)):
            notes.append(
                "requests are not batched: rows of a batch could not be proved independent"
            )
            _LOG.warning("model %s version %d: %s", source.model, source.version, notes[-1])
            spec = resolve(graph, config, manifest, batching=False, default_max_batch=largest)
        return spec

    def _prepare(
        self,
        session: Session,
        source: VersionSource,
        spec: ModelSpec,
        config: ModelConfig | None,
        manifest: Manifest | None,
        sequences: Sequences | None,
    ) -> None:
        if manifest is not None:
            replay_golden(session, source.directory, manifest)
        if sequences is not None:
            backend = sequences.backend(session)
            warm_up(backend, backend.signature, warmup_sizes(sequences.model, manifest))
        if sequences is not None and not sequences.spec.is_inferred:
            runs = sequences.filled(session)
            run_warmups(runs, config.model_warmup if config else (), spec.signature)
            return
        if config is not None:
            run_warmups(
                _reshaping(OnnxBackend(session, spec.graph), spec),
                config.model_warmup,
                spec.signature,
            )
        warm_up(session, spec.graph, warmup_sizes(spec, manifest))

    def _schedule(
        self,
        session: Session,
        source: VersionSource,
        spec: ModelSpec,
        config: ModelConfig | None,
        started: float,
        notes: list[str],
        sequences: Sequences | None,
    ) -> Model:
        settings = self._settings
        full = normalised(
            source.model,
            spec,
            config,
            on_gpu=session.provider == CUDA,
            instances=settings.instances,
        )
        _fill_parameters(full, session.config)
        if sequences is not None and sequences.spec.is_inferred:
            tell_inferred(full, sequences.spec)
        instances = sum(group.count for group in full.instance_group)
        engine: SequenceEngine | None = None
        if sequences is not None and not sequences.spec.is_inferred:
            engine = sequence_engine(
                source.model, sequences, session, settings, instances=instances, plain=None
            )
            scheduler: Engine = engine
        else:
            scheduler = plain = self._plain_scheduler(session, source, spec, full, instances)
            if sequences is not None:
                scheduler = engine = sequence_engine(
                    source.model, sequences, session, settings, instances=instances, plain=plain
                )
        return Model(
            name=source.model,
            version=str(source.version),
            signature=spec.signature,
            config=full,
            scheduler=scheduler,
            sequences=engine,
            provider=session.provider,
            size_bytes=session.path.stat().st_size,
            load_s=time.monotonic() - started,
            threads=session.config.intra_op_threads,
            notes=tuple(notes),
        )

    def _plain_scheduler(
        self,
        session: Session,
        source: VersionSource,
        spec: ModelSpec,
        full: ModelConfig,
        instances: int,
    ) -> Scheduler:
        settings, policy = self._settings, batch_policy(full, spec)
        sizes = bucket_sizes(policy.max_rows, policy.preferred_rows)
        scheduler = Scheduler(
            source.model,
            _as_clients_see(backend_of(session, spec.graph, sizes), spec),
            SchedulerConfig(
                policy,
                queue_policy(full),
                instances=instances,
                queue_requests=settings.max_queue_requests,
                queue_bytes=settings.max_queue_mib << 20,
            ),
        )
        scheduler.start()
        return scheduler


def _takes_bytes(session: Session, spec: ModelSpec) -> bool:
    tensors = (*spec.signature.inputs, *spec.signature.outputs)
    has_strings = any(tensor.datatype is BYTES for tensor in tensors)
    return has_strings and only_moves_strings(session.path)


def _as_clients_see(backend: Backend, spec: ModelSpec) -> Backend:
    """Return a backend with what stands between a graph and the clients of its model."""
    return _reshaping(MovedStrings(backend) if spec.signature.takes_bytes else backend, spec)


def _reshaping(backend: Backend, spec: ModelSpec) -> Backend:
    return backend if spec.reshaped is None else ReshapingBackend(backend, spec.signature)


def warmup_sizes(spec: ModelSpec, manifest: Manifest | None) -> tuple[int, ...]:
    """Return the rows of the batches that a version runs before it serves, ascending.

    One and the largest, and what the exporter recommends; none is above what is served.
    """
    if not spec.max_batch_size:
        return (1,)
    wanted = () if manifest is None else (*manifest.warmup_batches, *manifest.batch_buckets)
    return tuple(sorted({1, spec.max_batch_size, *(n for n in wanted if n <= spec.max_batch_size)}))


def _is_code(config: ModelConfig | None) -> bool:
    return config is not None and config.backend == PYTHON


def _check_signature(key: PublicKey, source: VersionSource) -> None:
    if source.file is not None:
        raise ManifestError(
            f"{source.file}: a single file has no signature, and --require-signature demands one; "
            "publish it with penstock-export --key",
        )
    key.check(source.directory, source.model, source.version)


def _fill_parameters(full: ModelConfig, config: SessionConfig) -> None:
    """Say in a normalised configuration what became of the parameters that were left out."""
    values = {
        "intra_op_thread_count": config.intra_op_threads,
        "inter_op_thread_count": config.inter_op_threads,
        "execution_mode": int(config.parallel),
        "session.intra_op.allow_spinning": int(config.spinning),
    }
    for key, value in values.items():
        full.parameters[key].string_value = str(value)


def _check_memory(path: Path, wanted: SessionConfig) -> None:
    """Refuse a model whose weights alone are more than its share of the GPU's memory."""
    share = wanted.gpu_memory_bytes
    if share and path.is_file() and path.stat().st_size > share:
        raise LoadError(
            f"{path}: {path.stat().st_size >> 20} MiB, but its share of --gpu-memory-mib is "
            f"{share >> 20} MiB: raise it, or serve fewer models on this GPU",
        )


def _log_ready(model: Model, threads: ThreadPlan) -> None:
    _LOG.info(
        "model %s version %s is ready: %s, %s, %s, loaded in %.2f s",
        model.name,
        model.version,
        model.provider,
        f"batches of up to {model.config.max_batch_size}"
        if model.signature.batched
        else "no batching",
        threads,
        model.load_s,
    )
