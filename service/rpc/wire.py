"""Protobuf's wire form, as far as it is read and written by hand on the way of a request."""

from collections.abc import Sequence
from typing import Final

from service.errors import InvalidRequest

_PRESCAN_FROM: Final = 64 << 10  # bytes; the parts of a smaller message cannot hurt
# Most parts of one kind in a ModelInferRequest: field number -> what it is called and the limit.
_LIMITS: Final = {
    4: ("parameters", 64),
    5: ("inputs", 256),
    6: ("outputs", 256),
    7: ("raw_input_contents", 256),
}

_MAX_PARTS: Final = 4096  # of any kind: most are fields that nobody knows

_LIMIT_OF: Final = dict(_LIMITS.values())


def varint(value: int) -> bytes:
    """Return a non-negative integer as a varint."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def length_delimited(field: int, contents: bytes) -> bytes:
    """Return a field of bytes, text or a message."""
    return b"".join((varint(field << 3 | 2), varint(len(contents)), contents))


def check_part_counts(message: bytes) -> None:
    """Refuse a large request with too many parts before it is parsed.

    Two bytes on the wire become a hundred in memory: a count bomb stays below every size limit.
    Raises InvalidRequest. A message that is no protobuf passes: the parser refuses it.
    """
    if len(message) < _PRESCAN_FROM:
        return
    counts = dict.fromkeys(_LIMITS, 0)
    parts, at, end = 0, 0, len(message)
    while at < end:
        parts += 1
        if parts > _MAX_PARTS:
            raise InvalidRequest(f"too many fields: at most {_MAX_PARTS} in one request")
        tag, at = _read_varint(message, at)
        field, wire_type = tag >> 3, tag & 7
        if field in counts:
            counts[field] += 1
            name, limit = _LIMITS[field]
            if counts[field] > limit:
                raise InvalidRequest(f"too many {name}: at most {limit} in one request")
        if wire_type == 2:
            length, at = _read_varint(message, at)
            at += length
        elif wire_type == 0:
            _, at = _read_varint(message, at)
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        else:
            return


def text_field(message: bytes, field: int) -> bytes:
    """Return a field of bytes or text, the last one of that number; b"" if it has none.

    A message that is no protobuf gives anything: the parser refuses it.
    """
    found, at, end, parts = b"", 0, len(message), 0
    while at < end and (parts := parts + 1) <= _MAX_PARTS:
        tag, at = _read_varint(message, at)
        if tag & 7 == 2:
            length, at = _read_varint(message, at)
            if tag >> 3 == field:
                found = message[at : at + length]
            at += length
        elif tag & 7 == 0:
            _, at = _read_varint(message, at)
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            break
    return found


def check_counts(name: str, parts: Sequence[object]) -> None:
    """Refuse a parsed request with too many parts of one kind. Raises InvalidRequest."""
    limit = _LIMIT_OF[name]
    if len(parts) > limit:
        raise InvalidRequest(f"too many {name}: {len(parts)}, at most {limit} in one request")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 64:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    return 0, len(message)  # cut off or overlong: not for us to judge
