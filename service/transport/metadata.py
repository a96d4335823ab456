"""What may be sent as metadata. For transports whose library says so late, or not at all."""

import re
from typing import Final

from service.transport.seam import Metadata

_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_DETAILS: Final = "grpc-status-details-bin"
_HTTP: Final = ("te", "content-type", "content-length")


def check_metadata(metadata: Metadata) -> None:
    """Raise ValueError that names the first entry which cannot be sent, and why."""
    for name, value in metadata:
        if not _NAME.fullmatch(name):
            raise ValueError(f"metadata name {name!r} is not a lower-case header name")
        if (name.startswith("grpc-") and name != _DETAILS) or name in _HTTP:
            raise ValueError(f"metadata name {name!r} is reserved")
        is_binary = name.endswith("-bin")
        if isinstance(value, bytes) and not is_binary:
            raise ValueError(f"metadata {name!r} has bytes, but its name does not end in -bin")
        if isinstance(value, str):
            if is_binary:
                raise ValueError(f"metadata {name!r} needs bytes, as its name ends in -bin")
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"metadata {name!r} is not printable ASCII")
