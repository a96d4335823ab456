"""What can go wrong for a client of the server.

ClientError                 a call failed; `code` is its gRPC status
├── ServerUnreachable       nothing answers at the address
├── RequestRefused          the server refused or failed one request
└── MalformedAnswer         the server answered with what the protocol does not allow
"""

from typing import Final

import grpc

from service.errors import PenstockError

# gRPC gives its own failures to connect the code that a draining server answers with.
_CONNECTION_WORDS: Final = ("connect", "resolution", "socket", "goaway", "handshake")


class ClientError(PenstockError):
    """A call failed. code: its gRPC status; text: what the server, or gRPC, said."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class ServerUnreachable(ClientError):
    """Nothing answers at the address, or the connection broke."""


class RequestRefused(ClientError):
    """The server refused or failed one request. On a stream, code is always UNKNOWN."""


class MalformedAnswer(ClientError):
    """The answer is not what the protocol allows."""

    def __init__(self, text: str) -> None:
        super().__init__(grpc.StatusCode.INTERNAL, text)


def translated(address: str, error: grpc.RpcError) -> ClientError:
    """Return the error that a failed call to address means."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and any(
        word in text.lower() for word in _CONNECTION_WORDS
    ):
        return ServerUnreachable(
            code, f"no server answers at {address}: {text}. Does `penstock serve` run there?"
        )
    return RequestRefused(code, text or f"the call failed with {code.name}")
