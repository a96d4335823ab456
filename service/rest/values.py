"""Tensor contents as JSON, and JSON as tensor contents. Exact, or refused with the place.

Numbers keep their value: integers of 64 bits are written in full, floats so that reading them
gives the same bits. FP16 and BF16 travel as the numbers that they are.
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, Final

import numpy as np
import orjson

from service.errors import InvalidRequest, dims, shown
from service.rest.parse import kind_of
from service.tensors import BF16, BOOL, BYTES, Array, Datatype, Shape, from_raw, join_bytes

_FLOATS: Final = frozenset(["FP16", "FP32", "FP64", "BF16"])
# Numbers that JSON has no literals for; as tokens Python, Go's protojson and Triton know them.
_SPECIAL: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_PIECE: Final = 1 << 14  # numbers; to write them takes a millisecond or so
_MAX_DOUBLE: Final = int(np.finfo(np.float64).max)


def raw_of(name: str, datatype: Datatype, shape: Shape, data: object) -> bytes:
    """Return the raw contents of a tensor that came as JSON, flat or nested as its shape says.

    How many elements there are is not compared with the shape; whoever reads raw contents does.
    Raises InvalidRequest that names the input, and the element in row-major order.
    """
    if type(data) is not list:
        data = [data] if not shape and data is not None else data
        if type(data) is not list:
            raise InvalidRequest(
                f"'data' of input '{shown(name)}' is {kind_of(data)}, expected an array"
            )
    values = _flat(name, shape, data)
    if datatype is BYTES:
        _check_kinds(name, datatype, values, {str}, "strings")
        return join_bytes(_encoded(name, values))
    if datatype is BOOL:
        _check_kinds(name, datatype, values, {bool}, "true or false")
        return np.array(values, bool).tobytes()
    if datatype.wire in _FLOATS:
        return _floats(name, datatype, values)
    _check_kinds(name, datatype, values, {int}, "whole numbers")
    try:
        return np.array(values, datatype.numpy).tobytes()
    except OverflowError:
        limits = np.iinfo(datatype.numpy)
        index = next(i for i, value in enumerate(values) if not limits.min <= value <= limits.max)
        raise InvalidRequest(
            f"value out of range for input '{shown(name)}': element {index} is "
            f"{shown(str(values[index]))}, {datatype} holds {limits.min} to {limits.max}"
        ) from None


def json_of(name: str, datatype: Datatype, shape: Shape, raw: bytes) -> bytes:
    """Return raw contents as a flat JSON array.

    Numbers that JSON has no literals for are the tokens NaN, Infinity and -Infinity.
    Raises InvalidRequest for BYTES that are not UTF-8: JSON has no form for them.
    """
    array = from_raw(datatype, shape, raw).reshape(-1)
    if datatype is BYTES:
        return orjson.dumps(_decoded(name, array))
    if datatype is BF16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    if array.size <= _PIECE:
        return _numbers(array)
    # Each in a call of its own: in between the interpreter is free for others.
    pieces = [_numbers(array[at : at + _PIECE])[1:-1] for at in range(0, array.size, _PIECE)]
    pieces[0] = b"[" + pieces[0]
    pieces[-1] += b"]"
    return b",".join(pieces)


def _flat(name: str, shape: Shape, data: list[Any]) -> list[Any]:
    values, nested = data, [len(data)]
    while values and type(values[0]) is list:
        width = len(values[0])
        for index, row in enumerate(values):
            if type(row) is not list or len(row) != width:
                got = f"{len(row)} elements" if type(row) is list else kind_of(row)
                raise InvalidRequest(
                    f"'data' of input '{shown(name)}' is ragged: at depth {len(nested)}, entry "
                    f"{index} has {got}, the first one {width} elements"
                )
        nested.append(width)
        values = list(chain.from_iterable(values))
    if len(nested) > 1 and tuple(nested) != shape:
        raise InvalidRequest(
            f"'data' of input '{shown(name)}' is nested as {dims(nested)}, its shape is "
            f"{dims(shape)}: nest it so, or send it flat"
        )
    return values


def _check_kinds(
    name: str, datatype: Datatype, values: Sequence[Any], kinds: set[type], takes: str
) -> None:
    if set(map(type, values)) <= kinds:
        return
    index = next(i for i, value in enumerate(values) if type(value) not in kinds)
    raise InvalidRequest(
        f"wrong value for input '{shown(name)}': element {index} is {kind_of(values[index])}, "
        f"{datatype} takes {takes}"
    )


def _floats(name: str, datatype: Datatype, values: list[Any]) -> bytes:
    takes = 'numbers, and the strings "NaN", "Infinity" and "-Infinity"'
    _check_kinds(name, datatype, values, {int, float, str}, takes)
    if str in set(map(type, values)):
        values = [_special(name, datatype, i, v, takes) for i, v in enumerate(values)]
    try:
        exact = np.array(values, np.float64)
    except OverflowError:  # whole numbers beyond 1e308
        index = next(i for i, value in enumerate(values) if abs(value) > _MAX_DOUBLE)
        raise _too_large(name, datatype, index, values[index]) from None
    if datatype is BF16:
        bits = _to_bf16(exact)
        lost = (bits & 0x7FFF) == 0x7F80
        raw = bits.tobytes()
    else:
        with np.errstate(over="ignore"):
            narrow = exact.astype(datatype.numpy)
        lost = np.isinf(narrow)
        raw = narrow.tobytes()
    lost &= np.isfinite(exact)
    if lost.any():
        index = int(np.argmax(lost))
        raise _too_large(name, datatype, index, values[index])
    return raw


def _special(name: str, datatype: Datatype, index: int, value: Any, takes: str) -> float:
    if type(value) is not str:
        number: float = value
        return number
    if value not in _SPECIAL:
        raise InvalidRequest(
            f"wrong value for input '{shown(name)}': element {index} is the string "
            f'"{shown(value)}", {datatype} takes {takes}'
        )
    return _SPECIAL[value]


def _too_large(name: str, datatype: Datatype, index: int, value: object) -> InvalidRequest:
    return InvalidRequest(
        f"value out of range for input '{shown(name)}': element {index} is {shown(str(value))}, "
        f"{datatype} holds no number that large"
    )


def _to_bf16(exact: Array) -> Array:
    """Round to the nearest BF16, ties to even, in one step: not first to FP32 and then again."""
    with np.errstate(over="ignore"):
        single = exact.astype(np.float32)
    bits = single.view(np.uint32)
    # Round to odd on the way: toward zero, with the last bit set if anything was lost.
    bits = np.where(np.abs(single.astype(np.float64)) > np.abs(exact), bits - 1, bits)
    with np.errstate(invalid="ignore"):
        inexact = np.isfinite(exact) & (bits.view(np.float32).astype(np.float64) != exact)
    bits = (bits | inexact).astype(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(exact), 0x7FC0, rounded).astype(np.uint16)


def _numbers(array: Array) -> bytes:
    text = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _with_special(array, text)
    return text


def _with_special(array: Array, text: bytes) -> bytes:
    """Put the tokens where orjson has written null: it does for every number that is not finite."""
    parts = text.split(b"null")
    odd = array[~np.isfinite(array)]
    tokens = [b"NaN" if v != v else b"Infinity" if v > 0 else b"-Infinity" for v in odd]  # noqa: PLR0124
    return b"".join(chain.from_iterable(zip(parts, [*tokens, b""], strict=True)))


def _encoded(name: str, values: list[str]) -> list[bytes]:
    try:
        return [value.encode() for value in values]
    except UnicodeEncodeError:
        raise InvalidRequest(
            f"wrong value for input '{shown(name)}': half of a surrogate pair is no character"
        ) from None


def _decoded(name: str, array: Array) -> list[str]:
    texts: list[str] = []
    try:
        for element in array.tolist():
            texts.append(element.decode())  # noqa: PERF401  its length tells which one it was
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"output '{name}' has bytes that are not UTF-8 (element {len(texts)}), which JSON "
            'cannot carry: ask for it with "parameters": {"binary_data": true}'
        ) from None
    return texts
