"""Errors of the client: which class a status and a text become."""

import pickle

import grpc
import pytest

from service.client import (
    AccessDenied,
    AlreadyExists,
    Cancelled,
    ClientError,
    DeadlineExceeded,
    InvalidArgument,
    MalformedAnswer,
    NotFound,
    Overloaded,
    RequestRefused,
    SequenceEnded,
    ServerFailed,
    ServerUnreachable,
    Unavailable,
    Unsupported,
    WindowFull,
)
from service.client.errors import refusal_by_text, translated
from service.errors import DeadlineExceeded as ServersDeadlineExceeded
from service.errors import (
    DeadlineUnmeetable,
    InferenceFailed,
    InvalidRequest,
    QueueFull,
    QueueTimeout,
    RequestCancelled,
    RequestError,
    SequenceBacklogFull,
    SequenceTimeout,
    ShuttingDown,
)
from service.rpc.status import CODES

_CLASSES = {
    "INVALID_ARGUMENT": InvalidArgument, "OUT_OF_RANGE": InvalidArgument, "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists, "UNAUTHENTICATED": AccessDenied,
    "PERMISSION_DENIED": AccessDenied, "UNIMPLEMENTED": Unsupported, "UNAVAILABLE": Unavailable,
    "RESOURCE_EXHAUSTED": Overloaded, "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled, "INTERNAL": ServerFailed, "DATA_LOSS": ServerFailed,
    "UNKNOWN": RequestRefused, "ABORTED": RequestRefused, "FAILED_PRECONDITION": RequestRefused,
}  # fmt: skip


class Failed(grpc.RpcError):
    """What gRPC raises."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__()
        self._code, self._text = code, text

    def code(self) -> grpc.StatusCode:
        """Return the status."""
        return self._code

    def details(self) -> str:
        """Return the text."""
        return self._text


@pytest.mark.parametrize("code", [c for c in grpc.StatusCode if c is not grpc.StatusCode.OK])
def test_every_status_has_its_class(code: grpc.StatusCode) -> None:
    """A status becomes the class that the tree has for it, with all that is known of the call."""
    error = translated("host:1", Failed(code, "why"), model="m", request_id="7")
    assert type(error) is _CLASSES[code.name]
    assert (error.code, error.text, error.model, error.request_id) == (code, "why", "m", "7")
    assert str(error) == "why"


@pytest.mark.parametrize(
    "text",
    [
        "failed to connect to all addresses; last error: UNKNOWN",
        "DNS resolution failed for nowhere.invalid",
        "Socket closed",
        "GOAWAY received",
        "recvmsg:Connection reset by peer",
    ],
)
def test_a_broken_connection_is_no_refusal(text: str) -> None:
    """What gRPC says of connections becomes ServerUnreachable, with the address in its text."""
    error = translated("host:1", Failed(grpc.StatusCode.UNAVAILABLE, text))
    assert type(error) is ServerUnreachable
    assert not isinstance(error, RequestRefused)
    assert "no server answers at host:1" in error.text


def test_a_status_without_a_text_has_one() -> None:
    """An error always says something."""
    assert (
        translated("h", Failed(grpc.StatusCode.ABORTED, "")).text == "the call failed with ABORTED"
    )


def test_what_is_full_at_triton_is_overload() -> None:
    """Triton answers UNAVAILABLE for a full queue, which is Overloaded as it is here."""
    error = translated("h", Failed(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"))
    assert type(error) is Overloaded
    assert isinstance(error, Unavailable)


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("[request id: 5] unexpected inference input 'X' for model 'm'"),
        QueueFull("m", "5 requests"),
        DeadlineUnmeetable("m", 1.0, 0.5),
        QueueTimeout(),
        ServersDeadlineExceeded(),
        RequestCancelled(),
        ShuttingDown(),
        InferenceFailed("m", "abcd"),
        SequenceBacklogFull("m", 1, 1),
        SequenceTimeout(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_texts_on_a_stream_become_what_the_status_would(error: RequestError) -> None:
    """The same refusal is the same class on a stream, where it is a text, as on a unary call."""
    code = grpc.StatusCode[CODES[type(error)].name]
    on_stream = refusal_by_text(str(error), model="m", request_id="5")
    assert type(on_stream) is type(translated("h", Failed(code, str(error))))
    assert (on_stream.code, on_stream.request_id) == (code, "5")


def test_an_unknown_text_on_a_stream_is_a_refusal() -> None:
    """A text that says nothing known becomes RequestRefused with the status UNKNOWN."""
    error = refusal_by_text("the backend is on fire")
    assert (type(error), error.code) == (RequestRefused, grpc.StatusCode.UNKNOWN)


def test_every_error_is_a_client_error() -> None:
    """One except clause catches them all."""
    import service.client as package

    kinds = [getattr(package, name) for name in package.__all__]
    errors = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(errors) == 16
    assert all(issubclass(kind, ClientError) for kind in errors)


@pytest.mark.parametrize(
    "error",
    [
        NotFound(grpc.StatusCode.NOT_FOUND, "no 'm'", model="m", request_id="7"),
        WindowFull(4, 1.5),
        SequenceEnded("m", "is over"),
        MalformedAnswer("noise", model="m"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error: ClientError) -> None:
    """An error that was pickled has class, text and all that is known of the call."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    assert type(again) is type(error)
    assert (str(again), again.__dict__) == (str(error), error.__dict__)
