"""JSON of a request: parsed, with the numbers that JSON has no literals for."""

import json
import re
from typing import Any, Final

import orjson

from service.errors import InvalidRequest, shown

_KINDS: Final = {
    bool: "a boolean", int: "a whole number", float: "a number with a fraction or exponent",
    str: "a string", dict: "an object", list: "an array", type(None): "null",
}  # fmt: skip
# Python, JavaScript libraries and Triton's clients write them; no standard allows them.
_BEYOND_JSON: Final = re.compile(rb"NaN|Infinity")
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


_VALUE_BYTES: Final = 32  # of Python's: a number, and its place in an array that grows
_CONTAINER_BYTES: Final = 64
_PIECE: Final = 1 << 20  # bytes


def parsed_bytes(text: bytes) -> int:
    """Return about how much memory the values of a JSON text take: up to thirty times as much."""
    values = containers = 0
    for at in range(0, len(text), _PIECE):  # in between the interpreter is free for others
        piece = text[at : at + _PIECE]
        values += piece.count(b",")
        containers += piece.count(b"[") + piece.count(b"{")
    return values * _VALUE_BYTES + containers * _CONTAINER_BYTES


def parse_object(text: bytes | memoryview) -> dict[str, Any]:
    """Return the members of a JSON object; of two with one name the last counts.

    Raises InvalidRequest, with the line and column of what cannot be read.
    """
    value = parse_value(text)
    if type(value) is not dict:
        raise InvalidRequest("malformed request: the body is JSON, but no object: expected {...}")
    return value


def parse_value(text: bytes | memoryview) -> Any:
    """Return what JSON stands for. Raises InvalidRequest, with the place of what is wrong."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        problem = str(error)
        if not _BEYOND_JSON.search(text):
            raise _malformed(problem) from None
    # The slow way: ten times as long, for the few who send such numbers.
    try:
        value = json.loads(bytes(text).decode())
        if _SURROGATE.search(text):  # of which Python also takes one half
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        problem = "it is nested too deep"
    except ValueError as error:  # JSON, UTF-8, and whole numbers of thousands of digits
        problem = str(error)
    else:
        return value
    raise _malformed(problem)


def _malformed(problem: str) -> InvalidRequest:
    return InvalidRequest(f"malformed request: the body is not JSON: {shown(problem)}")


def member(parent: dict[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    """Return a member of an object that is of a kind; default if it is not there.

    where: what the object is, for the error. Raises InvalidRequest.
    """
    value = parent.get(key, default)
    if value is default or type(value) is kind:
        return value
    raise InvalidRequest(f"'{key}' of {where} is {kind_of(value)}, expected {_KINDS[kind]}")


def kind_of(value: object) -> str:
    """Return what a value of JSON is, for a message."""
    return _KINDS.get(type(value), "of an unknown kind")
