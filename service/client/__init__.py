"""A client for Penstock and other servers of the Open Inference Protocol, for threads and asyncio.

Needs grpcio, protobuf and numpy, and nothing of the server.
"""

from service.client.aio import AsyncClient
from service.client.aio_sequence import AsyncSequence
from service.client.aio_stream import AsyncStream
from service.client.errors import (
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
from service.client.ledger import Answer
from service.client.options import Retry, Tls
from service.client.ranking import Ranked
from service.client.responses import Outputs
from service.client.segment import Segment, SharedArray
from service.client.sequence import Sequence
from service.client.stream import Stream
from service.client.sync import Client

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "Answer",
    "AsyncClient",
    "AsyncSequence",
    "AsyncStream",
    "Cancelled",
    "Client",
    "ClientError",
    "DeadlineExceeded",
    "InvalidArgument",
    "MalformedAnswer",
    "NotFound",
    "Outputs",
    "Overloaded",
    "Ranked",
    "RequestRefused",
    "Retry",
    "Segment",
    "Sequence",
    "SequenceEnded",
    "ServerFailed",
    "ServerUnreachable",
    "SharedArray",
    "Stream",
    "Tls",
    "Unavailable",
    "Unsupported",
    "WindowFull",
]
