"""The parameters of a request: taken, refused, or left to the model."""

from collections.abc import Callable

import pytest

from service.errors import InvalidRequest
from service.inference.request import SequenceStep
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.rpc.parameters import RequestParameters, request_parameters


def test_no_parameters() -> None:
    """Without parameters every default holds."""
    assert request_parameters(ModelInferRequest()) == RequestParameters()


def test_priority_and_timeout() -> None:
    """Priority and timeout are read from signed and unsigned parameters."""
    request = ModelInferRequest()
    request.parameters["priority"].uint64_param = 2
    request.parameters["timeout"].int64_param = 500
    parameters = request_parameters(request)
    assert (parameters.priority, parameters.timeout_us) == (2, 500)
    assert parameters.is_plain


def test_custom_parameters() -> None:
    """What the server has no use for is the model's, with its type."""
    request = ModelInferRequest()
    request.parameters["flag"].bool_param = True
    request.parameters["number"].int64_param = -3
    request.parameters["text"].string_param = "x"
    request.parameters["ratio"].double_param = 0.5
    custom = request_parameters(request).custom
    assert custom == {"flag": True, "number": -3, "text": "x", "ratio": 0.5}


@pytest.mark.parametrize(
    ("sequence_id", "expected"),
    [(5, 5), (-1, (1 << 64) - 1), ("5", "5")],
)
def test_sequence(sequence_id: int | str, expected: int | str) -> None:
    """An integer is an id of 64 bits without sign, and never the text of it."""
    request = ModelInferRequest()
    if isinstance(sequence_id, int):
        request.parameters["sequence_id"].int64_param = sequence_id
    else:
        request.parameters["sequence_id"].string_param = sequence_id
    request.parameters["sequence_start"].bool_param = True
    request.parameters["sequence_end"].bool_param = False
    step = SequenceStep(expected, start=True, end=False)
    assert request_parameters(request).sequence == step


def test_no_sequence() -> None:
    """Id 0 without flags, which some clients always send, names no sequence."""
    request = ModelInferRequest()
    request.parameters["sequence_id"].int64_param = 0
    request.parameters["sequence_start"].bool_param = False
    request.parameters["sequence_end"].bool_param = False
    assert request_parameters(request).sequence is None


def _set(name: str, kind: str, value: object) -> Callable[[ModelInferRequest], None]:
    return lambda request: setattr(request.parameters[name], kind, value)


@pytest.mark.parametrize(
    ("fill", "text"),
    [
        (_set("sequence_id", "uint64_param", 1), "expected int64_param or string_param"),
        (_set("sequence_id", "string_param", "x" * 1025), "has 1025 characters, at most 1024"),
        (_set("sequence_start", "int64_param", 1), "'sequence_start' parameter, expected bool"),
        (_set("priority", "int64_param", -1), "'priority' parameter, expected a non-negative"),
        (_set("timeout", "string_param", "1"), "'timeout' parameter, expected a non-negative"),
        (_set("x", "uint64_param", 1), "'x' parameter, expected bool_param, int64_param"),
        (_set("triton_x", "bool_param", True), "starting with 'triton_' are reserved"),
        (
            _set("triton_enable_empty_final_response", "string_param", "true"),
            "expected bool_param",
        ),
    ],
)
def test_wrong_type(fill: Callable[[ModelInferRequest], None], text: str) -> None:
    """A value of the wrong type is refused with the name of the parameter and what is expected."""
    request = ModelInferRequest()
    fill(request)
    with pytest.raises(InvalidRequest, match=text):
        request_parameters(request)
