"""config.pbtxt: reading it, and what it says in the terms of this server."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from google.protobuf import json_format, text_format

from service.errors import ConfigError
from service.pb.model_config_pb2 import DataType, ModelConfig
from service.repository.sequence_config import check_sequences
from service.repository.session_parameters import session_parameters
from service.tensors import BY_CONFIG, BYTES, Datatype

CONFIG_FILE: Final = "config.pbtxt"
_MAX_BYTES: Final = 1 << 20
_MAX_BATCH: Final = 1 << 16  # rows
_MAX_INSTANCES: Final = 256
_MAX_LEVELS: Final = 1 << 16
_MAX_DELAY_US: Final = 60_000_000  # a minute: no caller waits longer for a fuller batch
_MAX_TIMEOUT_US: Final = 86_400_000_000  # a day
_FROM_CALLER: Final = Path("config of the request")  # where a file stands in messages
_PLATFORMS: Final = ("", "onnxruntime_onnx")
_BACKENDS: Final = ("", "onnxruntime")
PYTHON: Final = "python"  # the backend whose models are code


def read_config(model_directory: Path) -> ModelConfig | None:
    """Return the configuration in a model's directory, None if there is none.

    Raises ConfigError naming file and line.
    """
    path = model_directory / CONFIG_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{path}: {len(text)} bytes, at most {_MAX_BYTES} are read")
    config = ModelConfig()
    try:
        text_format.Parse(text.decode(), config)
    except text_format.ParseError as error:
        raise ConfigError(f"{path}:{_place(error)}: {_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    check_config(path, config, model_directory.name)
    return config


def config_from_json(text: str, model: str) -> ModelConfig:
    """Return the configuration that a caller gives in protobuf's JSON form.

    Raises ConfigError for what is no ModelConfig, or none that can be served.
    """
    if len(text) > _MAX_BYTES:
        raise ConfigError(f"{_FROM_CALLER}: {len(text)} characters, at most {_MAX_BYTES} are read")
    try:
        config = json_format.Parse(text, ModelConfig())
    except (json_format.ParseError, RecursionError) as error:
        raise ConfigError(f"{_FROM_CALLER}: not a ModelConfig in JSON: {error}") from error
    if not text.lstrip().startswith("{"):  # protobuf takes an empty list for an empty message
        raise ConfigError(f"{_FROM_CALLER}: not a JSON object")
    check_config(_FROM_CALLER, config, model)
    return config


def datatype_of(data_type: int) -> Datatype | None:
    """Return the datatype of a DataType value, None for TYPE_INVALID."""
    return BY_CONFIG.get(DataType.Name(data_type))


def data_type_of(datatype: Datatype) -> DataType:
    """Return the DataType value of a datatype."""
    value: DataType = DataType.Value("TYPE_STRING" if datatype is BYTES else datatype.config)  # type: ignore[assignment]  # an enum value is an int
    return value


def check_config(path: Path, config: ModelConfig, directory: str) -> None:
    """Refuse what cannot be served. path: stands in messages. Raises ConfigError."""
    if config.name and config.name != directory:
        raise ConfigError(
            f"{path}: name is '{config.name}', but the directory is '{directory}'; "
            "make them equal or leave name out",
        )
    if config.max_batch_size < 0:
        raise ConfigError(f"{path}: max_batch_size is {config.max_batch_size}, expected 0 or more")
    if config.backend == PYTHON:
        _check_python(path, config)
    elif config.platform not in _PLATFORMS or config.backend not in _BACKENDS:
        raise ConfigError(
            f"{path}: platform '{config.platform}' and backend '{config.backend}': only "
            "'onnxruntime_onnx' and 'onnxruntime' are served, and backend 'python' without a "
            "platform",
        )
    if config.model_transaction_policy.decoupled and config.backend != PYTHON:
        raise ConfigError(
            f"{path}: model_transaction_policy.decoupled is true, but a graph has one answer; only "
            "models of backend 'python' have several",
        )
    _refuse_unserved(path, config)
    _check_tensors(path, "input", [(i.name, i.data_type, i.dims) for i in config.input])
    _check_tensors(path, "output", [(o.name, o.data_type, o.dims) for o in config.output])
    _check_reshapes(path, config)
    _check_limits(path, config)
    try:
        session_parameters(config)
        check_sequences(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    for size in config.dynamic_batching.preferred_batch_size:
        if not 1 <= size <= config.max_batch_size:
            raise ConfigError(
                f"{path}: dynamic_batching.preferred_batch_size {size} is not between 1 and "
                f"max_batch_size {config.max_batch_size}",
            )
    batching = config.dynamic_batching
    if batching.default_priority_level > batching.priority_levels:
        raise ConfigError(
            f"{path}: default_priority_level {batching.default_priority_level} is above "
            f"priority_levels {batching.priority_levels}",
        )


def _check_limits(path: Path, config: ModelConfig) -> None:
    """Refuse numbers that no server could honour."""
    batching = config.dynamic_batching
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    checks = [
        ("max_batch_size", config.max_batch_size, _MAX_BATCH),
        ("instance_group.count", sum(abs(g.count) for g in config.instance_group), _MAX_INSTANCES),
        ("max_queue_delay_microseconds", batching.max_queue_delay_microseconds, _MAX_DELAY_US),
        ("priority_levels", batching.priority_levels, _MAX_LEVELS),
    ]
    checks += [
        ("default_timeout_microseconds", policy.default_timeout_microseconds, _MAX_TIMEOUT_US)
        for policy in policies
    ]
    for name, value, most in checks:
        if value > most:
            raise ConfigError(f"{path}: {name} is {value}, expected at most {most}")
    if any(group.count < 0 for group in config.instance_group):
        raise ConfigError(f"{path}: instance_group.count is negative, expected 0 or more")
    if "/" in config.default_model_filename or config.default_model_filename in (".", ".."):
        raise ConfigError(
            f"{path}: default_model_filename is '{config.default_model_filename}', expected the "
            "name of a file in the version directory",
        )


def _check_python(path: Path, config: ModelConfig) -> None:
    """Refuse what a model that is code cannot be served with."""
    if config.platform:
        raise ConfigError(f"{path}: platform is '{config.platform}', but backend is 'python'")
    for kind, tensors in (("input", config.input), ("output", config.output)):
        if not tensors:
            raise ConfigError(
                f"{path}: has no {kind}: with backend 'python' every input and output has to be "
                "declared, for nothing else says what the model takes and gives"
            )
    for name in (entry.name for entry in config.input if entry.HasField("reshape")):
        raise ConfigError(f"{path}: '{name}' has a reshape, which backend 'python' does itself")
    for name in (entry.name for entry in config.output if entry.HasField("reshape")):
        raise ConfigError(f"{path}: '{name}' has a reshape, which backend 'python' does itself")
    for name in ("dynamic_batching", "sequence_batching", "model_warmup", "optimization"):
        is_set = bool(config.model_warmup) if name == "model_warmup" else config.HasField(name)
        if is_set:
            raise ConfigError(
                f"{path}: {name}: not for backend 'python', whose models get one request at a time"
            )


def _refuse_unserved(path: Path, config: ModelConfig) -> None:
    unserved = {
        "ensemble_scheduling": config.HasField("ensemble_scheduling"),
        "input.allow_ragged_batch": any(i.allow_ragged_batch for i in config.input),
        "batch_input": bool(config.batch_input),
        "batch_output": bool(config.batch_output),
    }
    asked = [name for name, is_set in unserved.items() if is_set]
    if asked:
        raise ConfigError(f"{path}: {', '.join(asked)}: not served by this version of Penstock")


def _check_tensors(
    path: Path, kind: str, tensors: Iterable[tuple[str, int, Iterable[int]]]
) -> None:
    seen: set[str] = set()
    for name, data_type, dims in tensors:
        if not name:
            raise ConfigError(f"{path}: an {kind} has no name")
        if name in seen:
            raise ConfigError(f"{path}: {kind} '{name}' is given twice")
        seen.add(name)
        if datatype_of(data_type) is None:
            raise ConfigError(f"{path}: {kind} '{name}' has no data_type")
        if any(extent < -1 or extent == 0 for extent in dims):
            raise ConfigError(
                f"{path}: {kind} '{name}' has dims {list(dims)}: -1 (any) or at least 1 expected",
            )


def _check_reshapes(path: Path, config: ModelConfig) -> None:
    for entries in (config.input, config.output):
        for entry in entries:
            if entry.HasField("reshape"):
                _check_reshape(path, entry.name, entry.dims, entry.reshape.shape)


def _check_reshape(path: Path, name: str, dims: Sequence[int], shape: Sequence[int]) -> None:
    """Refuse a reshape that does not keep the elements, or leaves open how it keeps them."""
    if any(extent < -1 or extent == 0 for extent in shape):
        raise ConfigError(
            f"{path}: '{name}' has reshape {list(shape)}: -1 (any) or at least 1 expected",
        )
    # Of the extents between one -1 and the next the products must agree: each -1 of the one is
    # then what the -1 in its place of the other is.
    if _products(dims) != _products(shape):
        raise ConfigError(
            f"{path}: '{name}' has dims {list(dims)} and reshape {list(shape)}, which do not have "
            "the same elements: before, between and after every -1 the products must be equal",
        )


def _products(extents: Sequence[int]) -> list[int]:
    products = [1]
    for extent in extents:
        if extent == -1:
            products.append(1)
        else:
            products[-1] *= extent
    return products


def _place(error: text_format.ParseError) -> str:
    line, column = error.GetLine(), error.GetColumn()
    return "?" if line is None else f"{line}" if column is None else f"{line}:{column}"


def _reason(error: text_format.ParseError) -> str:
    """Return the text of the error without the place that protobuf puts before it."""
    return str(error).split(" : ", 1)[-1].strip()
