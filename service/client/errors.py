"""What can go wrong for a client of the server, as a tree by what the caller can do about it.

ClientError                 a call failed; `code` is its gRPC status
├── ServerUnreachable       nothing answers at the address, or the connection broke
├── RequestRefused          the server refused or failed one request
│   ├── InvalidArgument     the request is wrong; sending it again cannot help
│   ├── NotFound            there is no such model, version or region
│   ├── AlreadyExists       a region of that name is registered already
│   ├── AccessDenied        the caller lacks a certificate, a token or a right
│   ├── Unsupported         this server, or this model, does not do that
│   ├── Unavailable         not now: a version loads, the server drains, a queue timed out
│   │   └── Overloaded      not now: as much waits as may wait; send less, later
│   ├── DeadlineExceeded    the deadline passed before the answer was there
│   ├── Cancelled           the call was cancelled
│   └── ServerFailed        the model, or the server, ran and failed
├── WindowFull              nobody read the answers that a stream's window holds
├── SequenceEnded           a step of a sequence that has ended
└── MalformedAnswer         the server answered with what the protocol does not allow
"""

from collections.abc import Mapping
from typing import Any, Final

import grpc

from service.errors import PenstockError

# gRPC gives its own failures to connect the code that a draining server answers with.
_CONNECTION_WORDS: Final = ("connect", "resolution", "socket", "goaway", "handshake")


class ClientError(PenstockError):
    """A call failed.

    code: its gRPC status. text: what the server, or gRPC, said. model, request_id: of the
    request, "" where there is none.
    """

    def __init__(
        self, code: grpc.StatusCode, text: str, *, model: str = "", request_id: str = ""
    ) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.model = model
        self.request_id = request_id

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors travel between processes; by default they are made again of their text alone.
        return _made_again, (type(self), self.args, self.__dict__)


class ServerUnreachable(ClientError):
    """Nothing answers at the address, or the connection broke."""


class RequestRefused(ClientError):
    """The server refused or failed one request."""


class InvalidArgument(RequestRefused):
    """The request itself is wrong; sending it again cannot help."""


class NotFound(RequestRefused):
    """There is no such model, no such version of it, or no such region."""


class AlreadyExists(RequestRefused):
    """What was to be made is there already."""


class AccessDenied(RequestRefused):
    """The caller has not shown who he is, or may not do that."""


class Unsupported(RequestRefused):
    """This server, or this model, does not do what was asked."""


class Unavailable(RequestRefused):
    """Not now: the version is not ready, the server drains, or the queue's timeout passed."""


class Overloaded(Unavailable):
    """As many requests wait as may wait. Send fewer, and this one later."""


class DeadlineExceeded(RequestRefused):
    """The deadline passed before the answer was there."""


class Cancelled(RequestRefused):
    """The call was cancelled before the answer was there."""


class ServerFailed(RequestRefused):
    """The model, or the server, ran the request and failed. The text has the id in its log."""


class WindowFull(ClientError):
    """A send waited for the deadline, because nobody read the answers that the window holds."""

    def __init__(self, window: int, waited_s: float) -> None:
        super().__init__(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"{window} requests of the stream have no answer that was read, as many as its window "
            f"holds, for {waited_s:g} s now: receive answers before sending, or on another thread",
        )


class SequenceEnded(ClientError):
    """A step of a sequence that has had its last step or has failed."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"the sequence of model '{model}' {why}: begin another one with client.sequence()",
            model=model,
        )


class MalformedAnswer(ClientError):
    """The answer is not what the protocol allows."""

    def __init__(self, text: str, *, model: str = "", request_id: str = "") -> None:
        super().__init__(grpc.StatusCode.INTERNAL, text, model=model, request_id=request_id)


# Statuses without a row are RequestRefused itself.
_BY_CODE: Final[Mapping[grpc.StatusCode, type[RequestRefused]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.UNAUTHENTICATED: AccessDenied,
    grpc.StatusCode.PERMISSION_DENIED: AccessDenied,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
    grpc.StatusCode.INTERNAL: ServerFailed,
    grpc.StatusCode.DATA_LOSS: ServerFailed,
}

# On a stream an error is a text alone. These are the stable parts of the texts, those of Triton
# included, with the status that the same refusal has on a unary call. The first match counts.
_BY_TEXT: Final = (
    ("Exceeds maximum queue size", grpc.StatusCode.RESOURCE_EXHAUSTED),
    ("work is queued for model", grpc.StatusCode.RESOURCE_EXHAUSTED),
    ("no room for another sequence", grpc.StatusCode.UNAVAILABLE),
    ("is not at ready state", grpc.StatusCode.UNAVAILABLE),
    ("is not found", grpc.StatusCode.NOT_FOUND),
    ("has no available versions", grpc.StatusCode.NOT_FOUND),
    ("Unable to find", grpc.StatusCode.NOT_FOUND),
    ("imeout expired", grpc.StatusCode.UNAVAILABLE),
    ("timeout of the corresponding sequence", grpc.StatusCode.UNAVAILABLE),
    ("shutting down", grpc.StatusCode.UNAVAILABLE),
    ("Deadline Exceeded", grpc.StatusCode.DEADLINE_EXCEEDED),
    ("was cancelled", grpc.StatusCode.CANCELLED),
    ("transaction policy", grpc.StatusCode.UNIMPLEMENTED),
    ("inference failed for model", grpc.StatusCode.INTERNAL),
    ("internal error", grpc.StatusCode.INTERNAL),
    ("[request id: ", grpc.StatusCode.INVALID_ARGUMENT),
    ("must specify", grpc.StatusCode.INVALID_ARGUMENT),
    ("xpected", grpc.StatusCode.INVALID_ARGUMENT),
    ("failed to get model version", grpc.StatusCode.INVALID_ARGUMENT),
    ("is kept by the server", grpc.StatusCode.INVALID_ARGUMENT),
    ("malformed", grpc.StatusCode.INVALID_ARGUMENT),
    ("invalid", grpc.StatusCode.INVALID_ARGUMENT),
)


def translated(
    address: str, error: grpc.RpcError, *, model: str = "", request_id: str = ""
) -> ClientError:
    """Return the error that a failed call to address means."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and any(
        word in text.lower() for word in _CONNECTION_WORDS
    ):
        return ServerUnreachable(
            code,
            f"no server answers at {address}: {text}. Does `penstock serve` run there?",
            model=model,
            request_id=request_id,
        )
    if code is grpc.StatusCode.UNAVAILABLE and "Exceeds maximum queue size" in text:
        kind: type[RequestRefused] = Overloaded  # Triton's status for it
    else:
        kind = _BY_CODE.get(code, RequestRefused)
    text = text or f"the call failed with {code.name}"
    return kind(code, text, model=model, request_id=request_id)


def refusal_by_text(text: str, *, model: str = "", request_id: str = "") -> RequestRefused:
    """Return the error that an error message of a stream means.

    Its code is that of the same refusal on a unary call where the text tells it, else UNKNOWN.
    """
    code = next((code for part, code in _BY_TEXT if part in text), grpc.StatusCode.UNKNOWN)
    return _BY_CODE.get(code, RequestRefused)(code, text, model=model, request_id=request_id)


def _made_again(
    kind: type[ClientError], arguments: tuple[Any, ...], state: dict[str, Any]
) -> ClientError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(state)
    return error
