"""The parameters of a request: what they mean to the server, and what is the model's own affair."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from service.errors import InvalidRequest, shown
from service.inference.request import Parameter, SequenceStep
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.wire import check_counts

_RESERVED: Final = "triton_"
_EMPTY_FINAL: Final = "triton_enable_empty_final_response"
_SEQUENCE_KEYS: Final = ("sequence_id", "sequence_start", "sequence_end")
_KNOWN: Final = frozenset((*_SEQUENCE_KEYS, "priority", "timeout", _EMPTY_FINAL))
_MAX_SEQUENCE_ID: Final = 1024  # characters; ids are remembered for a while after their sequences
_NONE: Final[Mapping[str, Parameter]] = {}


@dataclass(frozen=True, slots=True)
class RequestParameters:
    """What the parameters of one request say.

    priority: 1 is the highest; 0: the model's default. timeout_us: longest wait in the queue in
    microseconds; 0: the model's default. sequence: None if the request belongs to none.
    wants_empty_final: a stream is to tell the end of the answers by an empty one. custom: those
    that the server has no use for; they are handed to the model.
    """

    priority: int = 0
    timeout_us: int = 0
    sequence: SequenceStep | None = None
    wants_empty_final: bool = False
    custom: Mapping[str, Parameter] = field(default_factory=lambda: _NONE)

    @property
    def is_plain(self) -> bool:
        """Tell whether requests with them may be served together as if they were one."""
        return self.sequence is None and not self.custom


_PLAIN: Final = RequestParameters()


def is_reserved(key: str) -> bool:
    """Tell whether a parameter has a meaning to the server, and is none of a model's own."""
    return key in _KNOWN or key.startswith(_RESERVED)


def request_parameters(request: ModelInferRequest) -> RequestParameters:
    """Return the parameters of a request.

    Raises InvalidRequest for a value of the wrong type or range, too many parameters, and keys
    that Triton reserves.
    """
    if not request.parameters:
        return _PLAIN
    check_counts("parameters", list(request.parameters))
    for key in request.parameters:
        if key.startswith(_RESERVED) and key != _EMPTY_FINAL:
            raise InvalidRequest(
                f"parameter keys starting with '{_RESERVED}' are reserved for Triton usage. Only "
                f"the following keys starting with '{_RESERVED}' are allowed: {_EMPTY_FINAL}"
            )
    return RequestParameters(
        priority=_natural(request, "priority"),
        timeout_us=_natural(request, "timeout"),
        sequence=_sequence(request),
        wants_empty_final=_flag(request, _EMPTY_FINAL),
        custom={
            key: _custom(request, key) for key in sorted(request.parameters) if key not in _KNOWN
        },
    )


def _natural(request: ModelInferRequest, key: str) -> int:
    if key not in request.parameters:
        return 0
    parameter = request.parameters[key]
    kind = parameter.WhichOneof("parameter_choice")
    value = -1
    if kind == "int64_param":
        value = parameter.int64_param
    elif kind == "uint64_param":
        value = parameter.uint64_param
    if value < 0:
        raise InvalidRequest(
            f"invalid value type for '{key}' parameter, expected a non-negative int64_param."
        )
    return value


def _flag(request: ModelInferRequest, key: str) -> bool:
    if key not in request.parameters:
        return False
    parameter = request.parameters[key]
    if parameter.WhichOneof("parameter_choice") != "bool_param":
        raise InvalidRequest(f"invalid value type for '{key}' parameter, expected bool_param.")
    return parameter.bool_param


def _sequence(request: ModelInferRequest) -> SequenceStep | None:
    given = [key for key in _SEQUENCE_KEYS if key in request.parameters]
    if not given:
        return None
    sequence_id: int | str = 0
    if "sequence_id" in given:
        parameter = request.parameters["sequence_id"]
        kind = parameter.WhichOneof("parameter_choice")
        if kind == "int64_param":
            sequence_id = parameter.int64_param & 0xFFFF_FFFF_FFFF_FFFF  # read as uint64
        elif kind == "string_param":
            sequence_id = parameter.string_param
            if len(sequence_id) > _MAX_SEQUENCE_ID:
                raise InvalidRequest(
                    f"the sequence id has {len(sequence_id)} characters, at most "
                    f"{_MAX_SEQUENCE_ID} are taken"
                )
        else:
            raise InvalidRequest(
                "invalid value type for 'sequence_id' parameter, expected int64_param or "
                "string_param."
            )
    start, end = (_flag(request, key) for key in _SEQUENCE_KEYS[1:])
    if not (sequence_id or start or end):
        return None  # what a client sends that always sends all three
    return SequenceStep(sequence_id, start=start, end=end)


def _custom(request: ModelInferRequest, key: str) -> Parameter:
    parameter = request.parameters[key]
    kind = parameter.WhichOneof("parameter_choice")
    if kind is None or kind == "uint64_param":
        raise InvalidRequest(
            f"invalid value type for '{shown(key)}' parameter, expected bool_param, int64_param, "
            "string_param or double_param."
        )
    value: Parameter = getattr(parameter, kind)
    return value
