"""Protobuf messages as JSON: names as in the schema, 64-bit integers as numbers.

protobuf's own JSON writes them as strings, which no client of this protocol expects.
"""

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def plain(message: Message, *, whole: bool = False) -> dict[str, Any]:
    """Return a message as what JSON can hold. whole: with the fields that have no value, too."""
    fields: Sequence[tuple[Any, Any]] = message.ListFields()
    if whole:
        fields = [
            (field, getattr(message, field.name))
            for field in message.DESCRIPTOR.fields
            if not field.has_presence or message.HasField(field.name)
        ]
    return {field.name: _field(field, value, whole=whole) for field, value in fields}


def _field(field: FieldDescriptor, value: Any, *, whole: bool) -> Any:
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        kind = entry.fields_by_name["value"]
        return {str(key): _value(kind, value[key], whole=whole) for key in sorted(value)}
    if field.is_repeated:
        return [_value(field, one, whole=whole) for one in value]
    return _value(field, value, whole=whole)


def _value(field: FieldDescriptor, value: Any, *, whole: bool) -> Any:
    if field.message_type is not None:
        return plain(value, whole=whole)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    return value.decode(errors="replace") if isinstance(value, bytes) else value
