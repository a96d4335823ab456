"""The states and controls of a graph, from config.pbtxt, manifest.json or the names of tensors.

Brings together what is said of them and what the graph has; what is left of the graph is what
clients see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from service.errors import ConfigError, ManifestError, dims
from service.pb.model_config_pb2 import ModelConfig, ModelSequenceBatching
from service.repository.manifest import Manifest
from service.repository.model_config import datatype_of
from service.repository.sequence_config import (
    backlog_of,
    idle_s,
    is_final_only,
    scope_of,
    strategy_of,
)
from service.repository.sequences import (
    INFERRED,
    INFERRED_BY,
    Control,
    ControlSpec,
    Oldest,
    SequenceSpec,
    StateSpec,
)
from service.repository.signature import Graph, GraphTensor, ModelSpec
from service.repository.state_pairs import fits, infer_pairs, leaves_something
from service.tensors import (
    BOOL,
    BYTES,
    FP32,
    INT32,
    Array,
    MalformedContents,
    Shape,
    element_count,
    from_raw,
)

INITIAL_STATES: Final = "initial_state"  # directory in that of the model
_MAX_INITIAL_BYTES: Final = 1 << 30  # as all states of a model together take by default
_BY_NAME: Final = "the names of its tensors"
_VALUES: Final = {"int32_false_true": INT32, "fp32_false_true": FP32, "bool_false_true": BOOL}


@dataclass(frozen=True, slots=True)
class Hidden:
    """The tensors of a graph that no client of its sequences sees.

    pairs: output by input, of the states. controls: names. shown: outputs of states that clients
    get all the same. source: where it is said.
    """

    pairs: Mapping[str, str]
    controls: tuple[str, ...] = ()
    shown: frozenset[str] = frozenset()
    source: str = "config.pbtxt"

    @property
    def inputs(self) -> frozenset[str]:
        """Return the inputs."""
        return frozenset((*self.pairs, *self.controls))

    @property
    def outputs(self) -> frozenset[str]:
        """Return the outputs."""
        return frozenset(self.pairs.values()) - self.shown

    def visible(self, graph: Graph) -> Graph:
        """Return what is left of the graph."""
        return Graph(
            tuple(t for t in graph.inputs if t.name not in self.inputs),
            tuple(t for t in graph.outputs if t.name not in self.outputs),
        )

    def visible_config(self, config: ModelConfig | None) -> ModelConfig | None:
        """Return what is left of a configuration that lists states as inputs and outputs."""
        if config is None:
            return None
        rest = ModelConfig()
        rest.CopyFrom(config)
        for entries, hidden in ((rest.input, self.inputs), (rest.output, self.outputs)):
            kept = [entry for entry in entries if entry.name not in hidden]
            del entries[:]
            entries.extend(kept)  # type: ignore[arg-type]  # of the same field
        return rest


def configured(graph: Graph, config: ModelConfig | None) -> Hidden | None:
    """Return what sequence_batching of a configuration hides; None if there is none.

    Raises ConfigError if the graph lacks something of it, or nothing is left for clients.
    """
    if config is None or not config.HasField("sequence_batching"):
        return None
    batching = config.sequence_batching
    inputs, outputs = {t.name for t in graph.inputs}, {t.name for t in graph.outputs}
    for kind, name, known in (
        *(("control_input", entry.name, inputs) for entry in batching.control_input),
        *(("state input", state.input_name, inputs) for state in batching.state),
        *(("state output", state.output_name, outputs) for state in batching.state),
    ):
        if name not in known:
            raise ConfigError(
                f"config.pbtxt: sequence_batching: {kind} '{name}' is not in the graph, which has "
                f"{sorted(known)}"
            )
    controls = tuple(entry.name for entry in batching.control_input)
    pairs = {state.input_name: state.output_name for state in batching.state}
    both = sorted({entry.name for entry in config.input} & {*controls, *pairs})
    if both:
        raise ConfigError(
            f"config.pbtxt: input '{both[0]}' is filled by sequence_batching: leave it out of input"
        )
    hidden = Hidden(pairs, controls, frozenset(entry.name for entry in config.output))
    left = hidden.visible(graph)
    if not (left.inputs and left.outputs):
        raise ConfigError(
            "config.pbtxt: sequence_batching leaves no "
            f"{'output' if left.inputs else 'input'} for clients; list a state's output under "
            "output to send it to them"
        )
    return hidden


def inferred(graph: Graph, manifest: Manifest | None) -> Hidden | None:
    """Return the states that the exporter marked, or that the names show; None if there are none.

    Raises ManifestError if the exporter marked what the graph does not have.
    """
    if manifest is not None and manifest.state:
        inputs = {t.name: t for t in graph.inputs}
        outputs = {t.name: t for t in graph.outputs}
        for name, output in manifest.state.items():
            fine = name in inputs and output in outputs and fits(outputs[output], inputs[name])
            if not fine:
                raise ManifestError(
                    f"manifest.json: state {name}={output} is no input and output of the graph "
                    "of one type and shape"
                )
        if not leaves_something(graph, manifest.state):
            return None
        return Hidden(dict(manifest.state), source="manifest.json")
    pairs = infer_pairs(graph)
    return Hidden(pairs, source=_BY_NAME) if pairs else None


def visible_manifest(manifest: Manifest | None, hidden: Hidden) -> Manifest | None:
    """Return what a manifest says of the tensors that clients see."""
    if manifest is None:
        return None
    return replace(
        manifest,
        inputs=tuple(spec for spec in manifest.inputs if spec.name not in hidden.inputs),
        outputs=tuple(spec for spec in manifest.outputs if spec.name not in hidden.outputs),
    )


def batch_axis(
    visible: Graph, given: GraphTensor, taken: GraphTensor, *, named: bool
) -> int | None:
    """Return the axis of a state along which rows of a batch lie; None if there is none.

    That which bears the name of axis 0 of the other inputs; else axis 0 if it is free, unless
    `named`. given, taken: the output of the state and its input.
    """
    names = {tensor.shape[0] for tensor in visible.inputs if tensor.shape}
    name = names.pop() if len(names) == 1 else None
    if isinstance(name, str):
        axes = [axis for axis, extent in enumerate(taken.shape) if extent == name]
        if len(axes) == 1 and not isinstance(given.shape[axes[0]], int):
            return axes[0]
    first_free = all(t.shape and not isinstance(t.shape[0], int) for t in (given, taken))
    return 0 if first_free and not named else None


def can_batch(graph: Graph, hidden: Hidden) -> bool:
    """Tell whether every state has an axis that bears the name of the batch."""
    return not unbatchable(graph, hidden, named=True)


def unbatchable(graph: Graph, hidden: Hidden, *, named: bool) -> list[GraphTensor]:
    """Return the inputs of states without an axis for a batch."""
    visible = hidden.visible(graph)
    inputs, outputs = _by_name(graph)
    return [
        inputs[name]
        for name, output in hidden.pairs.items()
        if batch_axis(visible, outputs[output], inputs[name], named=named) is None
    ]


def sequence_spec(
    graph: Graph,
    hidden: Hidden,
    spec: ModelSpec,
    config: ModelConfig | None,
    directory: Path,
) -> SequenceSpec:
    """Return how the sequences of a model are served.

    spec: of the requests of its sequences. directory: of the model, for files of initial states.
    Raises ConfigError where the configuration contradicts the graph.
    """
    builder = _Builder(graph, hidden, spec.signature.batched)
    if config is None or not config.HasField("sequence_batching"):
        inputs, outputs = _by_name(graph)
        return SequenceSpec(
            tuple(builder.inferred_state(inputs[i], outputs[o]) for i, o in hidden.pairs.items()),
            strategy=Oldest(),
            backlog=backlog_of(config),
            scope=scope_of(config),
            is_final_only=is_final_only(config),
            is_inferred=True,
            source=hidden.source,
        )
    batching = config.sequence_batching
    return SequenceSpec(
        tuple(builder.state(entry, directory / INITIAL_STATES) for entry in batching.state),
        tuple(builder.control(entry) for entry in batching.control_input),
        strategy_of(config),
        idle_s(config),
        backlog_of(config),
        scope_of(config),
        is_final_only(config),
    )


def tell_inferred(full: ModelConfig, spec: SequenceSpec) -> None:
    """Say in a normalised configuration which states a model has by inference."""
    pairs = ",".join(f"{state.input}={state.output}" for state in spec.states)
    full.parameters[INFERRED].string_value = pairs
    full.parameters[INFERRED_BY].string_value = spec.source


class _Builder:
    def __init__(self, graph: Graph, hidden: Hidden, batched: bool) -> None:  # noqa: FBT001
        self._visible = hidden.visible(graph)
        self._shown = hidden.shown
        self._batched = batched
        self._inputs, self._outputs = _by_name(graph)

    def inferred_state(self, taken: GraphTensor, given: GraphTensor) -> StateSpec:
        axis = self._axis(taken, given)
        rest = [e for i, e in enumerate(taken.shape) if not (self._batched and i == axis)]
        after = [e for i, e in enumerate(given.shape) if not (self._batched and i == axis)]
        # An extent that has another name in the output grows from step to step: from nothing.
        extents = tuple(
            have if isinstance(have, int) else _first_extent(have, then)
            for have, then in zip(rest, after, strict=True)
        )
        shape = tuple(extent if isinstance(extent, int) else -1 for extent in rest)
        return StateSpec(
            taken.name, given.name, taken.datatype, shape, axis, self._zeros(taken, extents)
        )

    def state(self, entry: ModelSequenceBatching.State, files: Path) -> StateSpec:
        taken, given = self._inputs[entry.input_name], self._outputs[entry.output_name]
        where = f"config.pbtxt: state '{entry.input_name}'"
        for kind, tensor in (("input", taken), ("output", given)):
            if datatype_of(entry.data_type) is not tensor.datatype:
                raise ConfigError(
                    f"{where} is {_type_name(entry.data_type)}, but {kind} '{tensor.name}' of the "
                    f"graph is {tensor.datatype.config}"
                )
        axis = self._axis(taken, given)
        for tensor in (taken, given):
            self._check_dims(where, entry.dims, tensor, axis)
        both = zip(entry.dims, self._extents(taken, axis), strict=True)
        known = (have if want < 0 else want for want, have in both)
        initial = self._zeros(taken, tuple(1 if extent < 0 else extent for extent in known))
        for chosen in entry.initial_state:
            self._check_dims(f"{where}: initial_state", chosen.dims, taken, axis)
            initial = self._zeros(taken, tuple(chosen.dims))
            if chosen.data_file:
                initial = _read_state(where, files / chosen.data_file, taken, initial.shape)
        return StateSpec(
            taken.name,
            given.name,
            taken.datatype,
            tuple(entry.dims),
            axis,
            initial,
            given.name in self._shown,
        )

    def control(self, entry: ModelSequenceBatching.ControlInput) -> ControlSpec:
        tensor, control = self._inputs[entry.name], entry.control[0]
        kind = Control(ModelSequenceBatching.Control.Kind.Name(control.kind))
        where = f"config.pbtxt: control_input '{entry.name}'"
        free = tensor.wire_shape[1:] if self._batched else tensor.wire_shape
        if any(extent not in (-1, 1) for extent in free):
            raise ConfigError(
                f"{where} has one element, but the graph takes {dims(tensor.wire_shape)}"
            )
        ones = (1,) * len(free)
        shape = (1, *ones) if self._batched else ones
        if kind is Control.CORRID:
            datatype = datatype_of(control.data_type)
            if datatype is not tensor.datatype:
                raise ConfigError(
                    f"{where} is {_type_name(control.data_type)}, but the graph takes "
                    f"{tensor.datatype.config}"
                )
            return ControlSpec(entry.name, kind, tensor.datatype, ones)
        field = next(name for name in _VALUES if getattr(control, name))
        if _VALUES[field] is not tensor.datatype:
            raise ConfigError(f"{where} has {field}, but the graph takes {tensor.datatype.config}")
        false, true = (
            np.full(shape, value, tensor.datatype.numpy) for value in getattr(control, field)
        )
        return ControlSpec(entry.name, kind, tensor.datatype, ones, false, true)

    def _axis(self, taken: GraphTensor, given: GraphTensor) -> int:
        if not self._batched:
            return 0
        axis = batch_axis(self._visible, given, taken, named=False)
        if axis is None:
            raise ConfigError(
                f"config.pbtxt: the model batches, but state '{taken.name}' has no axis for it: "
                f"the graph has {dims(taken.wire_shape)} in and {dims(given.wire_shape)} out; "
                "export it with a free axis 0, or with the axis named as axis 0 of the other "
                "inputs (the state of an ONNX GRU has its batch on axis 1), or set "
                "max_batch_size: 0"
            )
        return axis

    def _check_dims(
        self, where: str, stated: Sequence[int], tensor: GraphTensor, axis: int
    ) -> None:
        extents = self._extents(tensor, axis)
        agree = len(extents) == len(stated) and all(
            -1 in (have, want) or have == want for have, want in zip(extents, stated, strict=True)
        )
        if not agree:
            raise ConfigError(
                f"{where} has dims {dims(stated)}, but '{tensor.name}' of the graph has "
                f"{dims(tensor.wire_shape)}"
                + (f" with the batch on axis {axis}" if self._batched else "")
            )

    def _extents(self, tensor: GraphTensor, axis: int) -> list[int]:
        """Return the extents of one sequence's state, without the batch; -1: any."""
        extents = list(tensor.wire_shape)
        if self._batched:
            del extents[axis]
        return extents

    def _zeros(self, tensor: GraphTensor, extents: Shape) -> Array:
        shape = (1, *extents) if self._batched else extents
        size = element_count(shape) * tensor.datatype.numpy.itemsize
        if size > _MAX_INITIAL_BYTES:
            raise ConfigError(
                f"config.pbtxt: state '{tensor.name}' would begin with {size} bytes, at most "
                f"{_MAX_INITIAL_BYTES} are taken"
            )
        if tensor.datatype is BYTES:
            return np.full(shape, "", dtype=object)
        return np.zeros(shape, tensor.datatype.numpy)


def _by_name(graph: Graph) -> tuple[dict[str, GraphTensor], dict[str, GraphTensor]]:
    return {t.name: t for t in graph.inputs}, {t.name: t for t in graph.outputs}


def _first_extent(before: str | None, after: int | str | None) -> int:
    """Return the extent that a free axis of an inferred state starts with."""
    grows = isinstance(before, str) and isinstance(after, str) and before != after
    return 0 if grows else 1


def _read_state(where: str, path: Path, tensor: GraphTensor, shape: Shape) -> Array:
    try:
        raw = path.read_bytes()
        array = from_raw(tensor.datatype, shape, raw)
    except OSError as error:
        raise ConfigError(f"{where}: {path}: cannot be read: {error.strerror}") from error
    except MalformedContents as error:
        raise ConfigError(
            f"{where}: {path}: {len(raw)} bytes do not hold {tensor.datatype}{dims(shape)}: {error}"
        ) from error
    if tensor.datatype is BYTES:
        texts = [element.decode(errors="replace") for element in array.reshape(-1).tolist()]
        array = np.array(texts, dtype=object).reshape(shape)
    return array


def _type_name(data_type: int) -> str:
    datatype = datatype_of(data_type)
    return "TYPE_INVALID" if datatype is None else datatype.config
