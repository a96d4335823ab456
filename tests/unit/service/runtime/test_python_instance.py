"""A Python model as a producer: what it sees, and how its answers are checked."""

import threading
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import BackendContractError, InvalidRequest, LoadError, RequestCancelled
from service.inference import request as inference
from service.python_backend import Cancelled, Context, InvalidInput, Request, texts
from service.runtime.python.instance import PythonInstance
from service.tensors import BYTES, FP32, INT32, Signature, Tensors, TensorSpec

SIGNATURE = Signature(
    (TensorSpec("X", FP32, (-1, 2)),),
    (
        TensorSpec("Y", FP32, (-1, 2)),
        TensorSpec("S", BYTES, (-1, -1)),
        TensorSpec("N", INT32, (-1,)),
    ),
    batched=True,
)
X = np.ones((3, 2), np.float32)


def run(
    answer: Any,
    *,
    outputs: tuple[str, ...] = ("Y",),
    decoupled: bool = True,
    left: threading.Event | None = None,
) -> tuple[list[Tensors], Tensors | None]:
    """Return the responses of a model and the last one. answer: what infer returns of a request."""

    class Model:
        def __init__(self, _context: Context) -> None: ...

        def infer(self, request: Request) -> Any:
            return answer(request) if callable(answer) else answer

    instance = PythonInstance(
        Model, Context("m", "1", Path("/m/1")), SIGNATURE, decoupled=decoupled
    )
    request = inference.Request(
        {"X": X}, outputs, rows=3, on_end=lambda _: None, id="an id", parameters={"n": 5}
    )
    responses = instance.respond(request, left or threading.Event())
    given = []
    while True:
        try:
            given.append(next(responses))
        except StopIteration as end:
            return given, end.value


def refusal(answer: Any, **named: Any) -> str:
    """Return why an answer is not taken."""
    with pytest.raises(BackendContractError) as caught:
        run(answer, **named)
    return str(caught.value)


def test_the_model_sees_the_request() -> None:
    """Inputs, outputs wanted, parameters and id are those of the caller."""
    requests: list[Request] = []

    def infer(request: Request) -> Mapping[str, Any]:
        requests.append(request)
        return {"Y": X}

    run(infer)
    (request,) = requests
    assert (request.outputs, request.parameters, request.id) == (("Y",), {"n": 5}, "an id")
    assert request.inputs["X"] is X
    assert (request.deadline, request.cancelled) == (None, False)


def test_a_mapping_is_the_only_response() -> None:
    """What infer returns ends the request, decoupled or not."""
    for decoupled in (True, False):
        given, last = run({"Y": X}, decoupled=decoupled)
        assert given == []
        assert last is not None
        assert last["Y"] is X


def test_a_generator_may_yield_return_or_do_neither() -> None:
    """Each mapping is a response, whichever way it comes."""

    def both(_request: Request) -> Generator[Any, None, Any]:
        yield {"Y": X}
        return {"Y": X + 1}

    def none(_request: Request) -> Iterator[Any]:
        return
        yield

    given, last = run(both)
    assert len(given) == 1
    assert last is not None
    assert last["Y"][0, 0] == 2
    assert run(none) == ([], None)
    assert run(None) == ([], None)


def test_outputs_are_those_wanted_in_their_order() -> None:
    """Others that the model gives are left out."""
    everything = {"Y": X, "S": texts(["a"] * 3).reshape(3, 1), "N": np.zeros(3, np.int32)}
    _, last = run(everything, outputs=("N", "Y"))
    assert last is not None
    assert list(last) == ["N", "Y"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (5, "infer gave int, expected a mapping from output name to array"),
        ([{"Y": X}], "infer gave list, expected a mapping"),
        ({"Y": X, "Q": X}, "infer gave ['Q']; the outputs of config.pbtxt are ['Y','S','N']"),
        ({"S": X}, "infer gave no ['Y'], which the caller wants"),
        ({"Y": X.astype(np.float64)}, "output 'Y' is of float64, expected float32"),
        ({"Y": [[1, 2]] * 3}, "output 'Y' is of int64, expected float32"),
        ({"Y": X[:, :1]}, "output 'Y' has shape [3,1], expected [3,2]"),
        ({"Y": X[:2]}, "output 'Y' has shape [2,2], expected [3,2]"),
        ({"Y": X[0]}, "output 'Y' has shape [2], expected [3,2]"),
        ({"Y": None}, "output 'Y' is of object, expected float32"),
    ],
)
def test_answers_that_config_does_not_allow_are_refused(answer: Any, expected: str) -> None:
    """The error says which output, what it is and what was expected."""
    assert expected in refusal(answer)
    assert expected in refusal(lambda _: iter([answer]))


def test_without_decoupled_there_is_one_answer() -> None:
    """A generator, or nothing, is no answer."""
    assert refusal(None, decoupled=False).startswith("infer gave NoneType, expected a mapping")
    several = refusal(lambda _: iter([{"Y": X}]), decoupled=False)
    assert several.startswith("infer gave list_iterator, expected a mapping")


def test_a_generator_function_needs_decoupled() -> None:
    """It is told when the model is loaded, with what to do."""

    class Model:
        def __init__(self, _context: Context) -> None: ...

        def infer(self, _request: Request) -> Iterator[Any]:
            yield {}

    with pytest.raises(LoadError, match=r"set model_transaction_policy \{ decoupled: true \}"):
        PythonInstance(Model, Context("m", "1", Path("/m/1")), SIGNATURE, decoupled=False)


def test_bytes_may_be_bytes_text_or_numpy_strings() -> None:
    """Arbitrary bytes stay what they are."""
    for given in (
        texts([b"\xff\x00", "é", b""]).reshape(3, 1),
        np.array([["a"], ["b"], ["c"]]),
        np.array([[b"a"], [b"b"], [b"c"]]),
    ):
        _, last = run({"S": given}, outputs=("S",))
        assert last is not None
        assert last["S"].dtype == object
    assert "neither bytes nor str" in refusal(
        {"S": np.array([[1], [2], [3]], object)}, outputs=("S",)
    )


def test_the_models_errors_are_told_apart() -> None:
    """InvalidInput is the caller's fault, Cancelled nobody's, anything else the model's."""

    def raising(error: BaseException) -> Any:
        def infer(_request: Request) -> Any:
            raise error

        return infer

    with pytest.raises(InvalidRequest, match="no such thing"):
        run(raising(InvalidInput("no such thing")))
    with pytest.raises(RequestCancelled):
        run(raising(Cancelled()))
    with pytest.raises(ZeroDivisionError):
        run(raising(ZeroDivisionError()))


def test_sleep_ends_when_nobody_waits() -> None:
    """A model that sleeps by the request stops at once."""
    left = threading.Event()
    left.set()

    def infer(request: Request) -> Any:
        assert request.cancelled
        request.sleep(3600)

    with pytest.raises(RequestCancelled):
        run(infer, left=left)


def test_sleep_comes_back() -> None:
    """With a caller who waits it is a sleep."""
    Request({}).sleep(0.001)
    Request({}).sleep(-1)


def test_a_wrong_response_closes_the_generator() -> None:
    """What the model holds is freed before the request fails."""
    freed = []

    def infer(_request: Request) -> Iterator[Any]:
        try:
            yield {"nope": X}
        finally:
            freed.append(True)

    refusal(infer)
    assert freed == [True]


def test_a_model_that_cannot_be_made_is_a_load_error() -> None:
    """The error has what was raised."""

    class Model:
        def __init__(self, _context: Context) -> None:
            raise FileNotFoundError("weights.bin")

        def infer(self, request: Request) -> Any: ...

    with pytest.raises(LoadError, match=r"Model cannot be made: FileNotFoundError: weights\.bin"):
        PythonInstance(Model, Context("m", "1", Path("/m/1")), SIGNATURE, decoupled=False)


def test_close_is_optional() -> None:
    """A model without close is closed by doing nothing, one with it is told."""
    closed = []

    class Plain:
        def __init__(self, _context: Context) -> None: ...

        def infer(self, request: Request) -> Any: ...

    class Closing(Plain):
        def close(self) -> None:
            closed.append(True)

    for model in (Plain, Closing):
        PythonInstance(model, Context("m", "1", Path("/m/1")), SIGNATURE, decoupled=False).close()
    assert closed == [True]
