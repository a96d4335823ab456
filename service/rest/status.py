"""From gRPC statuses to HTTP's, in one table, and what HTTP itself refuses."""

from collections.abc import Mapping
from typing import Final

from service.transport.seam import Code

# 499 is nginx's for a client that has left: nobody sees it but a log. The rest is what Google's
# API guide and every gateway from HTTP to gRPC use.
STATUSES: Final[Mapping[Code, int]] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}


# Every status that the application answers with: those above, and those of HTTP itself.
ALL: Final = tuple(sorted({*STATUSES.values(), 405, 408, 413, 415}))


class HttpError(Exception):
    """A request that HTTP refuses before it means anything to a model; the text is for its caller.

    headers: of the answer, besides those that every answer has.
    """

    def __init__(self, status: int, text: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.headers = dict(headers or {})


class ClientGone(Exception):
    """The caller has left: there is nobody to answer."""


class RpcError(Exception):
    """A call that ended with a status other than OK."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code
