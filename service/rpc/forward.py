"""Headers of a call that become parameters of its requests, for models that look at them."""

import re
from collections.abc import Mapping

from service.errors import InvalidRequest, shown
from service.rpc.parameters import is_reserved
from service.rpc.restrict import HEADER_PREFIX
from service.transport.seam import Metadata


class Forward:
    """Picks the headers whose whole name matches a pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)

    def __call__(self, metadata: Metadata) -> Mapping[str, str]:
        """Return the headers to forward; of one that is there more than once all values.

        Binary ones and the secrets of restrictions are never forwarded. Raises InvalidRequest for a
        name that has a meaning as a parameter.
        """
        found: dict[str, str] = {}
        for key, value in metadata:
            if isinstance(value, bytes) or key.startswith(HEADER_PREFIX):
                continue
            if self._pattern.fullmatch(key):
                if is_reserved(key):
                    raise InvalidRequest(
                        f"Header '{shown(key)}' is reserved for Triton usage and cannot be "
                        "forwarded."
                    )
                found[key] = f"{found[key]}, {value}" if key in found else value
        return found
