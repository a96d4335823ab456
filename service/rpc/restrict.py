"""Restrictions: RPCs of some categories only for callers who send a secret in a header.

The same for every way of calling: whoever answers requests that are not gRPC asks `check` too.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from service.errors import NotPermitted, SettingsError
from service.rpc.methods import CATEGORIES
from service.transport.seam import Metadata

HEADER_PREFIX: Final = "triton-grpc-protocol-"
_KEY: Final = re.compile(r"[a-z0-9_.\-]{1,64}")
_EXPECTED: Final = (
    "expected CATEGORIES:KEY=VALUE, where CATEGORIES are some of "
    f"{', '.join(CATEGORIES)}, with commas between them, KEY is in lower case, and VALUE is "
    "printable ASCII"
)


@dataclass(frozen=True, slots=True)
class _Lock:
    """header: that must be sent. digest: of its value, so that no length can be measured."""

    header: str
    digest: bytes


class Restrictions:
    """What is restricted, and to whom. False if nothing is."""

    def __init__(self, groups: Iterable[str] = ()) -> None:
        """Restrict groups of categories, each "health,metadata:KEY=VALUE".

        Raises SettingsError, which tells no value.
        """
        self._locks: dict[str, _Lock] = {}
        for number, group in enumerate(groups, 1):
            names, _, rest = group.partition(":")
            key, _, value = rest.partition("=")
            key = key.lower()
            categories = [name.strip() for name in names.split(",")]
            is_plain = value.isascii() and value.isprintable() and value == value.strip()
            if not (_KEY.fullmatch(key) and value and is_plain) or set(categories) - set(
                CATEGORIES
            ):
                raise SettingsError(f"--restrict, number {number}: {_EXPECTED}")
            for category in categories:
                if category in self._locks:
                    raise SettingsError(
                        f"--restrict: category '{category}' is restricted twice, expected at most "
                        "once"
                    )
                self._locks[category] = _Lock(HEADER_PREFIX + key, _digest(value))

    def __bool__(self) -> bool:
        return bool(self._locks)

    def covers(self, category: str | None) -> bool:
        """Tell whether a category is restricted; None is the one of all that has none."""
        return category in self._locks

    def check(self, category: str | None, metadata: Metadata) -> None:
        """Let a caller pass who may call RPCs of a category. metadata: its keys in lower case.

        Raises NotPermitted if its header is missing, wrong, or there more than once.
        """
        lock = self._locks.get(category or "")
        if lock is None:
            return
        values = [value for key, value in metadata if key == lock.header]
        given = values[0] if len(values) == 1 else b""
        if not hmac.compare_digest(_digest(given), lock.digest):
            raise NotPermitted(f"This protocol is restricted, expecting header '{lock.header}'")


def _digest(value: str | bytes) -> bytes:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).digest()
