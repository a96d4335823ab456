"""What a model takes and gives: its graph, config.pbtxt and manifest.json brought together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from service.errors import ConfigError, ManifestError, dims
from service.pb.model_config_pb2 import ModelConfig, ModelInput, ModelOutput
from service.repository.manifest import Manifest
from service.repository.model_config import PYTHON, data_type_of, datatype_of
from service.repository.sequences import DEFAULT_CANDIDATES, DEFAULT_IDLE_US
from service.tensors import Datatype, Shape, Signature, TensorSpec

DEFAULT_MAX_BATCH: Final = 64  # rows, for a model that batches and says no number


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """An input or output as the graph declares it.

    shape: an extent is an int, a name (dynamic) or None (unknown).
    optional: an input that the graph does without.
    """

    name: str
    datatype: Datatype
    shape: tuple[int | str | None, ...]
    optional: bool = False

    @property
    def wire_shape(self) -> Shape:
        """Return the shape with -1 for every extent that is not fixed."""
        return tuple(extent if isinstance(extent, int) else -1 for extent in self.shape)


@dataclass(frozen=True, slots=True)
class Graph:
    """The inputs and outputs of a graph, in its order.

    defaults: inputs that have a value of their own. Clients see those that config.pbtxt names:
    some exporters declare every weight so.
    """

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    defaults: tuple[GraphTensor, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """How a version is served.

    max_batch_size: rows in the largest batch; 0: the model does not batch.
    is_proved: batching was proved by the exporter or is demanded by the configuration; if not,
    it is only likely and is to be proved before use.
    reshaped: what the graph takes and gives, if `reshape` makes that something else.
    """

    signature: Signature
    max_batch_size: int
    is_proved: bool
    reshaped: Signature | None = None

    @property
    def graph(self) -> Signature:
        """Return what the graph takes and gives: the same tensors in the same order."""
        return self.reshaped or self.signature


def resolve(
    graph: Graph,
    config: ModelConfig | None,
    manifest: Manifest | None,
    *,
    batching: bool = True,
    default_max_batch: int = DEFAULT_MAX_BATCH,
) -> ModelSpec:
    """Return how a version is served.

    config wins over manifest, and both must agree with the graph. Without either, the model is
    taken to batch if axis 0 of every input and output carries the same name.
    batching: False serves the model without batches unless config demands them.
    Raises ConfigError or ManifestError where they contradict the graph.
    """
    if config is not None and _speaks_of_batches(config):
        return _from_config(graph, config)
    is_batched = batching and is_batchable(graph)
    max_batch = default_max_batch
    is_proved = False
    if manifest is not None:
        check_manifest(graph, manifest)
        is_batched = is_batched and manifest.max_batch_size > 0
        max_batch, is_proved = manifest.max_batch_size, True
    signature = Signature(_as_declared(graph.inputs), _as_declared(graph.outputs), is_batched)
    return ModelSpec(signature, max_batch if is_batched else 0, is_proved or not is_batched)


def declared(config: ModelConfig) -> ModelSpec:
    """Return how a version is served of which its configuration alone says what it takes.

    Raises ConfigError for a tensor without a datatype, and for `reshape`.
    """
    batch = (-1,) if config.max_batch_size > 0 else ()

    def spec(entry: ModelInput | ModelOutput) -> TensorSpec:
        datatype = datatype_of(entry.data_type)
        if datatype is None:
            raise ConfigError(f"config.pbtxt: '{entry.name}' has no data_type")
        if entry.HasField("reshape"):
            raise ConfigError(
                f"config.pbtxt: '{entry.name}' has a reshape, which is for ONNX graphs: a model's "
                "own code can give its tensors any shape"
            )
        optional = isinstance(entry, ModelInput) and entry.optional
        return TensorSpec(entry.name, datatype, (*batch, *entry.dims), optional)

    signature = Signature(
        tuple(map(spec, config.input)),
        tuple(map(spec, config.output)),
        batched=config.max_batch_size > 0,
        takes_bytes=True,
    )
    return ModelSpec(signature, config.max_batch_size, is_proved=True)


def is_batchable(graph: Graph) -> bool:
    """Tell whether axis 0 of every input and output is the same named dynamic dimension."""
    first = {tensor.shape[0] if tensor.shape else 0 for tensor in (*graph.inputs, *graph.outputs)}
    return len(first) == 1 and isinstance(first.pop(), str)


def _speaks_of_batches(config: ModelConfig) -> bool:
    return config.max_batch_size > 0 or bool(config.input) or bool(config.output)


def _as_declared(tensors: Iterable[GraphTensor]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(t.name, t.datatype, t.wire_shape, t.optional) for t in tensors)


def _from_config(graph: Graph, config: ModelConfig) -> ModelSpec:
    batched = config.max_batch_size > 0
    inputs = _merge(config, graph.inputs, graph.defaults, list(config.input), "input")
    outputs = _merge(config, graph.outputs, (), list(config.output), "output")
    missing = {t.name for t in graph.inputs if not t.optional} - {pair.wire.name for pair in inputs}
    if missing:
        raise ConfigError(f"config.pbtxt lacks input(s) {sorted(missing)} of the graph")
    if batched:
        named = {pair.wire.name for pair in inputs}
        defaults = [tensor for tensor in graph.defaults if tensor.name in named]
        for tensor in (*graph.inputs, *defaults, *graph.outputs):
            if not tensor.shape or isinstance(tensor.shape[0], int):
                raise ConfigError(
                    f"config.pbtxt: max_batch_size is {config.max_batch_size}, but axis 0 of "
                    f"'{tensor.name}' is fixed in the graph: {dims(tensor.wire_shape)}; export "
                    "it with a dynamic batch, or set max_batch_size: 0",
                )
    signature, reshaped = (
        Signature(tuple(p[side] for p in inputs), tuple(p[side] for p in outputs), batched)
        for side in (0, 1)
    )
    return ModelSpec(
        signature,
        config.max_batch_size,
        is_proved=True,
        reshaped=None if reshaped == signature else reshaped,
    )


class _Pair(NamedTuple):
    """One tensor as clients see it and as the graph does."""

    wire: TensorSpec
    graph: TensorSpec


def _merge(
    config: ModelConfig,
    tensors: Sequence[GraphTensor],
    defaults: Sequence[GraphTensor],
    entries: Sequence[ModelInput | ModelOutput],
    kind: str,
) -> tuple[_Pair, ...]:
    by_name = {tensor.name: tensor for tensor in tensors}
    if not entries:
        return tuple(_Pair(spec, spec) for spec in _as_declared(tensors))
    all_by_name = {**by_name, **{tensor.name: tensor for tensor in defaults}}
    pairs = []
    for entry in entries:
        tensor = all_by_name.get(entry.name)
        if tensor is None:
            raise ConfigError(
                f"config.pbtxt: {kind} '{entry.name}' is not in the graph, which has "
                f"{sorted(by_name)}",
            )
        pairs.append(_merge_one(config, tensor, entry, kind))
    return tuple(pairs)


def _merge_one(
    config: ModelConfig, tensor: GraphTensor, entry: ModelInput | ModelOutput, kind: str
) -> _Pair:
    datatype = datatype_of(entry.data_type)
    if datatype is not tensor.datatype:
        raise ConfigError(
            f"config.pbtxt: {kind} '{entry.name}' is {datatype and datatype.config}, but the "
            f"graph has {tensor.datatype.config}",
        )
    optional = isinstance(entry, ModelInput) and entry.optional
    if optional and not tensor.optional:
        raise ConfigError(
            f"config.pbtxt: input '{entry.name}' is optional, but the graph cannot do without it: "
            "give it an initializer, which is then the default, or leave out 'optional: true'",
        )
    is_reshaped = entry.HasField("reshape")
    wanted = entry.reshape.shape if is_reshaped else entry.dims
    batch = (-1,) if config.max_batch_size > 0 else ()
    declared = batch + tuple(wanted)
    graph_shape = tensor.wire_shape
    agree = len(declared) == len(graph_shape) and all(
        -1 in (have, want) or have == want for have, want in zip(graph_shape, declared, strict=True)
    )
    if not agree:
        raise ConfigError(
            f"config.pbtxt: {kind} '{entry.name}' has {'reshape' if is_reshaped else 'dims'} "
            f"{dims(wanted)}, which with max_batch_size {config.max_batch_size} means "
            f"{dims(declared)}, but the graph has {dims(graph_shape)}",
        )
    shape = tuple(max(have, want) for have, want in zip(graph_shape, declared, strict=True))
    inner = TensorSpec(tensor.name, tensor.datatype, shape, optional)
    if not is_reshaped:
        return _Pair(inner, inner)
    # An extent that the reshape leaves open and the graph fixes is fixed for clients too.
    found = iter([extent for extent, want in zip(shape, declared, strict=True) if want < 0])
    outer = tuple(next(found) if extent < 0 else extent for extent in (*batch, *entry.dims))
    return _Pair(replace(inner, shape=outer), inner)


def check_manifest(graph: Graph, manifest: Manifest) -> None:
    """Raise ManifestError unless the manifest describes the tensors of the graph."""
    for kind, tensors, specs in (
        ("inputs", graph.inputs, manifest.inputs),
        ("outputs", graph.outputs, manifest.outputs),
    ):
        have = [(t.name, t.datatype, t.wire_shape) for t in tensors]
        want = [(s.name, s.datatype, s.shape) for s in specs]
        if have != want:
            raise ManifestError(
                f"manifest.json: {kind} are {_described(want)}, but the graph has "
                f"{_described(have)}",
            )


def _described(tensors: Iterable[tuple[str, Datatype, Shape]]) -> str:
    return ", ".join(f"{name} {datatype}{dims(shape)}" for name, datatype, shape in tensors)


def normalised(
    name: str,
    spec: ModelSpec,
    config: ModelConfig | None,
    *,
    on_gpu: bool,
    instances: int,
) -> ModelConfig:
    """Return the complete configuration, as clients such as perf_analyzer expect it."""
    full = ModelConfig()
    if config is not None:
        full.CopyFrom(config)
    full.name = name
    is_code = full.backend == PYTHON
    if not is_code:
        full.platform = "onnxruntime_onnx"
        full.backend = "onnxruntime"
    usual = "model.py" if is_code else "model.onnx"
    full.default_model_filename = full.default_model_filename or usual
    full.max_batch_size = spec.max_batch_size
    if full.version_policy.WhichOneof("policy_choice") is None:
        full.version_policy.latest.num_versions = 1
    _fill_tensors(full, spec.signature)
    _fill_instances(full, name, on_gpu=on_gpu, instances=instances)
    _fill_pinned_memory(full)
    if spec.signature.batched and not is_code and full.WhichOneof("scheduling_choice") is None:
        full.dynamic_batching.SetInParent()
    if full.HasField("sequence_batching"):
        _fill_sequences(full)
    if full.HasField("dynamic_batching") and not full.dynamic_batching.preferred_batch_size:
        full.dynamic_batching.preferred_batch_size.append(max(1, spec.max_batch_size))
    return full


def _fill_sequences(full: ModelConfig) -> None:
    batching = full.sequence_batching
    batching.max_sequence_idle_microseconds = (
        batching.max_sequence_idle_microseconds or DEFAULT_IDLE_US
    )
    if batching.HasField("oldest") and not batching.oldest.max_candidate_sequences:
        batching.oldest.max_candidate_sequences = DEFAULT_CANDIDATES


def _fill_tensors(full: ModelConfig, signature: Signature) -> None:
    skip = 1 if signature.batched else 0
    for specs, entries in ((signature.inputs, full.input), (signature.outputs, full.output)):
        if not entries:
            for spec in specs:
                entry = entries.add(
                    name=spec.name,
                    data_type=data_type_of(spec.datatype),
                    dims=spec.shape[skip:],
                )
                if spec.optional and isinstance(entry, ModelInput):
                    entry.optional = True


def _fill_pinned_memory(full: ModelConfig) -> None:
    """Say that buffers of a GPU are pinned, which they always are; clients expect it told."""
    for kind in ("input_pinned_memory", "output_pinned_memory"):
        if not full.optimization.HasField(kind):
            getattr(full.optimization, kind).enable = True


def _fill_instances(full: ModelConfig, name: str, *, on_gpu: bool, instances: int) -> None:
    if not full.instance_group:
        full.instance_group.add(name=name)
    several = len(full.instance_group) > 1
    for index, group in enumerate(full.instance_group):
        group.name = group.name or (f"{name}_{index}" if several else name)
        group.count = group.count or instances
        if group.kind == group.KIND_AUTO:
            group.kind = group.KIND_GPU if on_gpu else group.KIND_CPU
