"""Requests of the RPCs that are not on the way of inference: parsed by protobuf."""

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from service.errors import InvalidRequest

M = TypeVar("M", bound=Message)


def parse(kind: type[M], message: bytes) -> M:
    """Return the message of that kind. Raises InvalidRequest if the bytes are none."""
    try:
        return kind.FromString(message)
    except DecodeError:
        raise InvalidRequest(f"malformed request: not a {kind.DESCRIPTOR.name} message") from None
