"""The one border from our errors to gRPC statuses. Unexpected errors leave with a fixed text."""

import logging
import secrets
from collections.abc import Mapping
from typing import Final

from service.errors import (
    DeadlineExceeded,
    DeadlineUnmeetable,
    InferenceFailed,
    InvalidRequest,
    LoadFailed,
    ModelNotReady,
    NotPermitted,
    QueueFull,
    QueueTimeout,
    RegionExists,
    RegionLimit,
    RegionUnavailable,
    RequestCancelled,
    RequestError,
    SequenceBacklogFull,
    SequenceTimeout,
    ShuttingDown,
    StatesFull,
    TooBusy,
    UnknownModel,
    UnknownRegion,
    UnloadableModel,
    Unsupported,
    WindowTooSmall,
)
from service.transport.seam import Code

_LOG = logging.getLogger(__name__)

# One row for every class below RequestError; a test walks the classes.
CODES: Final[Mapping[type[RequestError], Code]] = {
    InvalidRequest: Code.INVALID_ARGUMENT,
    UnknownModel: Code.NOT_FOUND,
    ModelNotReady: Code.UNAVAILABLE,
    Unsupported: Code.UNIMPLEMENTED,
    RegionExists: Code.ALREADY_EXISTS,
    UnknownRegion: Code.NOT_FOUND,
    RegionUnavailable: Code.INTERNAL,
    RegionLimit: Code.RESOURCE_EXHAUSTED,
    WindowTooSmall: Code.INTERNAL,
    NotPermitted: Code.UNAVAILABLE,
    UnloadableModel: Code.INTERNAL,
    LoadFailed: Code.INVALID_ARGUMENT,
    TooBusy: Code.RESOURCE_EXHAUSTED,
    QueueFull: Code.RESOURCE_EXHAUSTED,
    DeadlineUnmeetable: Code.RESOURCE_EXHAUSTED,
    QueueTimeout: Code.UNAVAILABLE,
    SequenceBacklogFull: Code.UNAVAILABLE,
    StatesFull: Code.RESOURCE_EXHAUSTED,
    SequenceTimeout: Code.UNAVAILABLE,
    DeadlineExceeded: Code.DEADLINE_EXCEEDED,
    RequestCancelled: Code.CANCELLED,
    ShuttingDown: Code.UNAVAILABLE,
    InferenceFailed: Code.INTERNAL,
}
# Messages travel in trailers, of which clients and proxies take 8 KiB; a byte that is not ASCII is
# three there.
_MAX_MESSAGE: Final = 1024  # characters
_MAX_BYTES: Final = 2048
_NO_REASON: Final = "refused without a reason"  # an empty error_message would mean success


def status_of(error: Exception) -> tuple[Code, str]:
    """Return the status that a caller gets for an error.

    An error that is not ours is logged under an id, and the caller gets that id alone.
    """
    if isinstance(error, RequestError):
        return CODES[type(error)], _fitting(str(error)) or _NO_REASON
    error_id = secrets.token_hex(4)
    _LOG.error("unexpected error (error id %s)", error_id, exc_info=error)
    return Code.INTERNAL, f"internal error (error id {error_id})"


def _fitting(text: str) -> str:
    text = text[:_MAX_MESSAGE]
    if text.isascii():
        return text
    return text.encode(errors="replace")[:_MAX_BYTES].decode(errors="ignore")
