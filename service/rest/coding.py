"""Content codings: gzip and deflate, in and out, with a bound on what comes out."""

import zlib
from typing import Final

from service.rest.status import HttpError

_WINDOW: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # of zlib: which header it expects
_MAX_CODINGS: Final = 2  # of one body; each that is taken off is work on all of it
_LEVEL: Final = 1  # tensors of floats gain little by more
_LEAST: Final = 1024  # bytes; a smaller answer fits into a packet as it is


def inflate(body: bytes, coding: str, limit: int) -> bytes:
    """Return a body without its content coding.

    limit: bytes that may come out. Raises HttpError: 415, 413, or 400 if it is damaged.
    """
    names = [name.strip().lower() for name in coding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > _MAX_CODINGS:
        raise _unsupported(
            f"Content-Encoding has {len(names)} codings, at most {_MAX_CODINGS} are taken"
        )
    for name in reversed(names):
        body = _inflate(body, name, limit)
    return body


def _inflate(body: bytes, name: str, limit: int) -> bytes:
    if name not in _WINDOW:
        raise _unsupported(f"Content-Encoding is '{name[:32]}', expected gzip, deflate or identity")
    inflater = zlib.decompressobj(_WINDOW[name])
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise HttpError(400, f"the body is not {name}: {error}") from None
    if len(content) > limit:
        raise too_large(limit)
    if not inflater.eof:
        raise HttpError(400, f"the body is not {name}: it ends too early")
    if inflater.unused_data:
        raise HttpError(400, f"the body is not {name}: {len(inflater.unused_data)} bytes follow it")
    return content


def _unsupported(text: str) -> HttpError:
    return HttpError(415, text, headers={"accept-encoding": "gzip, deflate"})


def too_large(limit: int) -> HttpError:
    """Return the refusal of a body with more than limit bytes."""
    return HttpError(413, f"the body is larger than {limit} bytes (--max-message-mib)")


def chosen_coding(accepted: str, size: int) -> str | None:
    """Return the coding for an answer of so many bytes, by what the Accept-Encoding header says."""
    if size < _LEAST:
        return None
    for entry in accepted.lower().split(","):
        name, _, quality = entry.partition(";")
        if name.strip() in ("gzip", "deflate") and quality.replace(" ", "") not in ("q=0", "q=0.0"):
            return name.strip()
    return None


def deflate(body: bytes, coding: str) -> bytes:
    """Return a body in a content coding."""
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[coding])
    return deflater.compress(body) + deflater.flush()
