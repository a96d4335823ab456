"""The state of a version, and how a request names one."""

from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

from service.errors import InvalidRequest, shown

UNLOADED: Final = "unloaded"  # the reason that clients of RepositoryIndex look for


class State(Enum):
    """State of a version; `index_name` is how RepositoryIndex calls it."""

    UNKNOWN = ""  # lies in the repository and was never loaded
    LOADING = "LOADING"
    READY = "READY"
    FAILED = "FAILED"
    UNLOADING = "UNLOADING"
    UNLOADED = "UNLOADED"

    @property
    def index_name(self) -> str:
        """Return the name in RepositoryIndex."""
        unavailable = self in (State.FAILED, State.UNLOADED)
        return "UNAVAILABLE" if unavailable else self.value


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """State of one version. version: 0 if the model has none. reason: why it is not ready."""

    model: str
    version: int
    state: State
    reason: str = ""


def parse_version_text(text: str) -> int | None:
    """Return the version of a request; None if it names none.

    Raises InvalidRequest if it is not the decimal form of a positive integer.
    """
    if not text:
        return None
    number = 0
    if text.isascii() and (text.isdigit() or (text[0] == "-" and text[1:].isdigit())):
        with suppress(ValueError):  # more digits than int() takes
            number = int(text)
    else:
        raise InvalidRequest(
            f"failed to get model version from specified version string '{shown(text)}' "
            "(details: not a decimal number), version should be an integral value > 0",
        )
    if number <= 0 or str(number) != text:
        raise InvalidRequest(
            f"invalid model version specified '{shown(text)}' , "
            "version should be an integral value > 0",
        )
    return number
