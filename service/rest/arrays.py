"""Large arrays of numbers in JSON, read piece by piece.

A parser makes an object of every number before it lets go of the interpreter, for which everybody
else waits meanwhile. So such arrays are cut out of the text, the rest is parsed without them, and
they are read in pieces of a millisecond or so. What is out of the ordinary is left to the parser,
which has the words for what is wrong with it.
"""

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from service.rest.parse import parse_value
from service.rest.values import raw_of
from service.tensors import Datatype, Shape

PIECE: Final = 64 << 10  # bytes; to read so many takes a millisecond or so
_MAX_DEPTH: Final = 64
_MAX_KEYS: Final = 1000  # that are looked at
_KEY: Final = b'"data"'
_BEGIN: Final = re.compile(rb'"data"[ \n\r\t]*:[ \n\r\t]*(\[+)')


class Irregular(Exception):
    """An array is not what it looked like."""


@dataclass(frozen=True, slots=True)
class NumberArray:
    """An array that was cut out.

    start, end: of the text that is it. depth: how many brackets it begins and ends with. piece:
    bytes that are read at once, about.
    """

    text: bytes
    start: int
    end: int
    depth: int
    piece: int

    def raw(self, name: str, datatype: Datatype, shape: Shape) -> bytes:
        """Return its contents as values.raw_of does.

        Raises Irregular, and InvalidRequest, which may name a wrong element.
        """
        if self.depth == 1:
            pieces = self._pieces(0)
            return b"".join([raw_of(name, datatype, (len(piece),), piece) for piece in pieces])
        if self.depth != len(shape):
            raise Irregular
        ones = 0  # arrays around the one that is cut into pieces
        while shape[ones] == 1 and ones < self.depth - 1:
            ones += 1
        rows = 0
        parts: list[bytes] = []
        for piece in self._pieces(ones):
            rows += len(piece)
            parts.append(raw_of(name, datatype, (len(piece), *shape[ones + 1 :]), piece))
        if rows != shape[ones]:
            raise Irregular
        return b"".join(parts)

    def _pieces(self, ones: int) -> Iterator[list[Any]]:
        """Yield the elements of the array that lies in so many others. Raises InvalidRequest."""
        text, at, end = self.text, self.start + ones + 1, self.end - ones - 1
        inner = self.depth - ones - 1
        between = b"]" * inner + b","
        while at >= 0:
            comma = text.find(between, at + self.piece, end)
            until = end if comma < 0 else comma + inner
            piece: list[Any] = parse_value(b"[%b]" % text[at:until])
            if not piece:  # as behind a comma too many
                raise Irregular
            yield piece
            at = -1 if comma < 0 else until + 1


def cut_arrays(text: bytes, end: int, piece: int) -> tuple[bytes, dict[str, NumberArray]]:
    """Return JSON without the arrays of numbers that are some `data` and large, and those.

    end: of the JSON in the text. piece: bytes that are read at once, about; an array of twice as
    many is large. In its place is a string that nobody can guess, its key. If what is left can be
    parsed, and each key that was put into it is the `data` of something and its array can be read,
    then the text is JSON, and stands for the same.
    """
    least = 2 * piece
    parts: list[bytes] = []
    arrays: dict[str, NumberArray] = {}
    left = at = 0  # what follows `left` is not in parts, what follows `at` not looked at
    for _ in range(_MAX_KEYS):
        if (at := text.find(_KEY, at, end)) < 0:
            break
        begin = _BEGIN.match(text, at, end)
        at += len(_KEY)
        if begin is None:
            continue
        start, depth = begin.span(1)[0], len(begin[1])
        quote = text.find(b'"', start, end)
        at = end if quote < 0 else quote
        if at - start < least or depth > _MAX_DEPTH:
            continue
        # The first bracket, or the last of several together, which is found at once.
        find = text.find if depth == 1 else text.rfind
        closing = find(b"]" * depth, start, at)
        if closing - start >= least:
            key = secrets.token_hex()
            arrays[key] = NumberArray(text, start, closing + depth, depth, piece)
            parts += [text[left:start], b'"%b"' % key.encode()]
            left = closing + depth
    return b"".join([*parts, text[left:end]]), arrays
