"""Content codings, in and out."""

import gzip
import zlib

import pytest

from service.rest.coding import chosen_coding, deflate, inflate
from service.rest.status import HttpError

TEXT = b"some text " * 200


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_round_trip(coding: str) -> None:
    """What goes out in a coding comes in from it."""
    packed = deflate(TEXT, coding)
    assert len(packed) < len(TEXT)
    assert inflate(packed, coding, len(TEXT)) == TEXT


def test_layers_come_off_in_turn() -> None:
    """Several codings are taken off from the last to the first, identity is none."""
    packed = gzip.compress(zlib.compress(TEXT))
    assert inflate(packed, "deflate, identity, GZIP", 1 << 20) == TEXT
    assert inflate(TEXT, "identity", 1) == TEXT


@pytest.mark.parametrize(
    ("packed", "coding", "status", "text"),
    [
        (TEXT, "gzip", 400, "the body is not gzip"),
        (gzip.compress(TEXT)[:-9], "gzip", 400, "it ends too early"),
        (b"", "gzip", 400, "it ends too early"),
        (gzip.compress(TEXT) + b"xyz", "gzip", 400, "3 bytes follow it"),
        (gzip.compress(bytes(1 << 20)), "gzip", 413, "larger than 4096 bytes (--max-message-mib)"),
        (TEXT, "gzip, " * 3, 415, "Content-Encoding has 3 codings, at most 2 are taken"),
        (TEXT, "br", 415, "Content-Encoding is 'br', expected gzip, deflate or identity"),
    ],
    ids=["not gzip", "cut off", "empty", "more behind it", "large", "three codings", "unknown"],
)
def test_refused(packed: bytes, coding: str, status: int, text: str) -> None:
    """Damaged, endless and unknown bodies are refused, and no more is inflated than allowed."""
    with pytest.raises(HttpError) as refused:
        inflate(packed, coding, 4096)
    assert refused.value.status == status
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("accepted", "size", "coding"),
    [
        ("gzip, deflate, br", 5000, "gzip"),
        ("br;q=1.0, deflate", 5000, "deflate"),
        ("gzip;q=0, deflate;q=0.5", 5000, "deflate"),
        ("gzip", 500, None),
        ("br", 5000, None),
        ("", 5000, None),
    ],
)
def test_choice(accepted: str, size: int, coding: str | None) -> None:
    """The first coding that both know is taken, if the answer is not small."""
    assert chosen_coding(accepted, size) == coding
