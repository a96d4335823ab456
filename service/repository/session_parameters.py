"""What the `parameters` of a config.pbtxt ask of ONNX Runtime, by the keys of Triton's backend."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from service.errors import ConfigError
from service.pb.model_config_pb2 import ModelConfig, ModelParameter

_MAX_THREADS: Final = 1024
_FLAGS: Final = {"0": False, "1": True}


@dataclass(frozen=True, slots=True)
class SessionParameters:
    """intra_op_threads, inter_op_threads: 0 leaves the number to the server.

    parallel: run independent nodes at once. spinning: None leaves it to the server.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    parallel: bool = False
    spinning: bool | None = None


def session_parameters(config: ModelConfig | None) -> SessionParameters:
    """Return what a configuration asks for. Raises ConfigError naming key, value, expectation."""
    if config is None:
        return SessionParameters()
    given = config.parameters
    return SessionParameters(
        _threads(given, "intra_op_thread_count"),
        _threads(given, "inter_op_thread_count"),
        parallel=bool(_flag(given, "execution_mode", "0 (sequential) or 1 (parallel)")),
        spinning=_flag(given, "session.intra_op.allow_spinning", "0 or 1"),
    )


def _threads(given: Mapping[str, ModelParameter], key: str) -> int:
    text = given[key].string_value.strip() if key in given else "0"
    # 6 digits are enough to be out of range, and few enough for int().
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else -1
    if not 0 <= number <= _MAX_THREADS:
        raise ConfigError(
            f"parameters '{key}' is '{text}', expected a whole number from 0 (the server decides) "
            f"to {_MAX_THREADS}",
        )
    return number


def _flag(given: Mapping[str, ModelParameter], key: str, expected: str) -> bool | None:
    if key not in given:
        return None
    text = given[key].string_value.strip()
    if text not in _FLAGS:
        raise ConfigError(f"parameters '{key}' is '{text}', expected {expected}")
    return _FLAGS[text]
