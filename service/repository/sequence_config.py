"""sequence_batching of a config.pbtxt: what can be judged without the graph."""

from collections.abc import Iterable, Sequence
from typing import Final

from service.errors import ConfigError
from service.pb.model_config_pb2 import DataType, ModelConfig, ModelSequenceBatching
from service.repository.sequences import (
    DEFAULT_BACKLOG,
    DEFAULT_CANDIDATES,
    DEFAULT_IDLE_US,
    Control,
    Direct,
    Oldest,
    Scope,
)

_Control = ModelSequenceBatching.Control
_MAX_IDLE_US: Final = 604_800_000_000  # a week
_MAX_DELAY_US: Final = 60_000_000
_MAX_CANDIDATES: Final = 1 << 20
_MAX_BACKLOG: Final = 1 << 20
_VALUES: Final = ("int32_false_true", "fp32_false_true", "bool_false_true")
_ID_TYPES: Final = ("TYPE_UINT64", "TYPE_INT64", "TYPE_UINT32", "TYPE_INT32", "TYPE_STRING")


def check_sequences(config: ModelConfig) -> None:
    """Raise ConfigError where sequence_batching, or a parameter of sequences, is wrong."""
    scope_of(config)
    backlog_of(config)
    is_final_only(config)
    if not config.HasField("sequence_batching"):
        return
    batching = config.sequence_batching
    if batching.iterative_sequence:
        raise ConfigError(
            "sequence_batching.iterative_sequence: not served: a request is run once; let the "
            "client send the steps, or loop inside the model"
        )
    if config.model_transaction_policy.decoupled:
        raise ConfigError("sequence_batching: not served for a decoupled model")
    _check_numbers(config)
    _check_controls(batching)
    _check_states(batching)


def idle_s(config: ModelConfig) -> float:
    """Return the time after which an idle sequence ends, in seconds."""
    return (config.sequence_batching.max_sequence_idle_microseconds or DEFAULT_IDLE_US) / 1e6


def strategy_of(config: ModelConfig) -> Oldest | Direct:
    """Return how steps are batched; `direct` where nothing is said, as in Triton."""
    batching = config.sequence_batching
    if batching.HasField("oldest"):
        oldest = batching.oldest
        return Oldest(
            oldest.max_candidate_sequences or DEFAULT_CANDIDATES,
            tuple(sorted(oldest.preferred_batch_size)),
            oldest.max_queue_delay_microseconds / 1e6,
        )
    direct = batching.direct
    return Direct(direct.max_queue_delay_microseconds / 1e6, direct.minimum_slot_utilization)


def scope_of(config: ModelConfig | None) -> Scope:
    """Return what parameter sequence_scope says. Raises ConfigError."""
    text = _parameter(config, "sequence_scope")
    try:
        return Scope(text)
    except ValueError:
        raise ConfigError(
            f"parameters 'sequence_scope' is '{text}', expected id or stream"
        ) from None


def backlog_of(config: ModelConfig | None) -> int:
    """Return how many sequences may wait for a place. Raises ConfigError."""
    text = _parameter(config, "max_sequence_backlog") or str(DEFAULT_BACKLOG)
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 8 else -1
    if not 0 <= number <= _MAX_BACKLOG:
        raise ConfigError(
            f"parameters 'max_sequence_backlog' is '{text}', expected a whole number from 0 "
            f"(refuse at once) to {_MAX_BACKLOG}"
        )
    return number


def is_final_only(config: ModelConfig | None) -> bool:
    """Tell whether only the END of a sequence is answered with outputs. Raises ConfigError."""
    text = _parameter(config, "response_policy")
    if text not in ("", "every", "final"):
        raise ConfigError(f"parameters 'response_policy' is '{text}', expected every or final")
    return text == "final"


def _parameter(config: ModelConfig | None, key: str) -> str:
    if config is None or key not in config.parameters:
        return ""
    return config.parameters[key].string_value.strip()


def _check_numbers(config: ModelConfig) -> None:
    batching = config.sequence_batching
    checks = [
        ("max_sequence_idle_microseconds", batching.max_sequence_idle_microseconds, _MAX_IDLE_US),
        (
            "max_queue_delay_microseconds",
            batching.oldest.max_queue_delay_microseconds,
            _MAX_DELAY_US,
        ),
        (
            "max_queue_delay_microseconds",
            batching.direct.max_queue_delay_microseconds,
            _MAX_DELAY_US,
        ),
        ("max_candidate_sequences", batching.oldest.max_candidate_sequences, _MAX_CANDIDATES),
    ]
    for name, value, most in checks:
        if not 0 <= value <= most:
            raise ConfigError(f"sequence_batching: {name} is {value}, expected 0 to {most}")
    utilization = batching.direct.minimum_slot_utilization
    if not 0.0 <= utilization <= 1.0:
        raise ConfigError(
            f"sequence_batching: minimum_slot_utilization is {utilization:g}, expected 0 to 1"
        )
    most = max(1, config.max_batch_size)
    for size in batching.oldest.preferred_batch_size:
        if not 1 <= size <= most:
            raise ConfigError(
                f"sequence_batching: oldest.preferred_batch_size {size} is not between 1 and "
                f"max_batch_size {config.max_batch_size}"
            )


def _check_controls(batching: ModelSequenceBatching) -> None:
    kinds: list[int] = []
    for entry in batching.control_input:
        if not entry.name:
            raise ConfigError("sequence_batching: a control_input has no name")
        if len(entry.control) != 1:
            raise ConfigError(
                f"sequence_batching: control_input '{entry.name}' has {len(entry.control)} "
                "controls, expected one"
            )
        _check_control(entry.name, entry.control[0])
        kinds.append(entry.control[0].kind)
    _refuse_twice("control_input", [entry.name for entry in batching.control_input])
    _refuse_twice("control of kind", [_Control.Kind.Name(kind) for kind in kinds])


def _check_control(name: str, control: ModelSequenceBatching.Control) -> None:
    kind = Control(_Control.Kind.Name(control.kind))
    given = [field for field in _VALUES if getattr(control, field)]
    where = f"sequence_batching: control_input '{name}' ({kind.value})"
    if kind is Control.CORRID:
        if given:
            raise ConfigError(f"{where} has {given[0]}, expected only data_type")
        if DataType.Name(control.data_type) not in _ID_TYPES:
            raise ConfigError(
                f"{where} has data_type {DataType.Name(control.data_type)}, expected one of "
                f"{', '.join(_ID_TYPES)}"
            )
        return
    if len(given) != 1:
        raise ConfigError(f"{where} has {given or 'no values'}, expected one of {list(_VALUES)}")
    values: Sequence[float] = getattr(control, given[0])
    if len(values) != 2:
        raise ConfigError(
            f"{where}: {given[0]} has {len(values)} values, expected two: of false and of true"
        )


def _check_states(batching: ModelSequenceBatching) -> None:
    for state in batching.state:
        where = f"sequence_batching: state '{state.input_name}'"
        if not (state.input_name and state.output_name):
            raise ConfigError(f"{where} needs both an input_name and an output_name")
        if state.data_type == DataType.TYPE_INVALID:
            raise ConfigError(f"{where} has no data_type")
        _check_dims(where, state.dims, least=-1)
        if len(state.initial_state) > 1:
            raise ConfigError(f"{where} has {len(state.initial_state)} initial_state, expected one")
        for initial in state.initial_state:
            _check_initial(where, state, initial)
    _refuse_twice("state with input_name", [state.input_name for state in batching.state])
    _refuse_twice("state with output_name", [state.output_name for state in batching.state])
    controls = {entry.name for entry in batching.control_input}
    for state in batching.state:
        if state.input_name in controls:
            raise ConfigError(
                f"sequence_batching: '{state.input_name}' is both a control_input and a state"
            )


def _check_initial(
    where: str, state: ModelSequenceBatching.State, initial: ModelSequenceBatching.InitialState
) -> None:
    if initial.data_type != state.data_type:
        raise ConfigError(
            f"{where}: initial_state has data_type {DataType.Name(initial.data_type)}, the state "
            f"{DataType.Name(state.data_type)}"
        )
    _check_dims(f"{where}: initial_state", initial.dims, least=0)
    if len(initial.dims) != len(state.dims) or any(
        want not in (-1, have) for have, want in zip(initial.dims, state.dims, strict=True)
    ):
        raise ConfigError(
            f"{where}: initial_state has dims {list(initial.dims)}, the state {list(state.dims)}"
        )
    choice = initial.WhichOneof("state_data")
    if choice is None or (choice == "zero_data" and not initial.zero_data):
        raise ConfigError(f"{where}: initial_state needs zero_data: true or data_file")
    name = initial.data_file
    if choice == "data_file" and (not name or "/" in name or "\\" in name or name in (".", "..")):
        raise ConfigError(
            f"{where}: initial_state data_file is '{name}', expected the name of a file in the "
            "model's directory initial_state"
        )


def _check_dims(where: str, dims: Iterable[int], *, least: int) -> None:
    if any(extent < least for extent in dims):
        raise ConfigError(f"{where} has dims {list(dims)}, expected each at least {least}")


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    for index, name in enumerate(names):
        if name in names[:index]:
            raise ConfigError(f"sequence_batching: {what} {name} is given twice")
