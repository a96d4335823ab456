"""Memory that a client shares with a server on its host: arrays that are not sent. For Linux."""

import mmap
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from service.errors import dims
from service.tensors import Array, Shape, element_count

_OBJECTS: Final = Path("/dev/shm")  # noqa: S108  where the C library keeps POSIX shared memory
_ALIGNMENT: Final = 64  # bytes: a cache line, and what vector instructions like


@dataclass(frozen=True, slots=True, eq=False)
class SharedArray:
    """An array in shared memory, to be filled and given as an input.

    array: its elements, which may be changed between requests: the server copies them when it
    takes the request. region, offset: where they are, in the protocol's terms.
    """

    array: Array
    region: str
    offset: int

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Return the type of the elements."""
        return self.array.dtype


class Segment:
    """One object of shared memory and the arrays in it. Its memory ends with its last array."""

    def __init__(self, size: int) -> None:
        """size: in bytes. Raises OSError where there is no room for it, or no shared memory."""
        if size < 1:
            raise ValueError(f"the size of shared memory is {size} bytes, expected at least 1")
        self.name = f"penstock-client-{os.getpid()}-{secrets.token_hex(8)}"
        self.key = f"/{self.name}"
        self.size = size
        self._path = _OBJECTS / self.name
        self._used = 0
        descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)  # else a full /dev/shm kills with SIGBUS later
            self._memory = mmap.mmap(descriptor, size)
        except BaseException:
            self.unlink()
            raise
        finally:
            os.close(descriptor)

    def array(self, shape: Shape, dtype: npt.DTypeLike) -> SharedArray:
        """Return the next array of the segment, zero.

        Raises TypeError for a type that leaves in another form, MemoryError if it does not fit.
        """
        kind = np.dtype(dtype)
        if not (kind.isnative and kind.kind in "biuf") and kind.name != "bfloat16":
            raise TypeError(f"an array of {kind} cannot be sent as it lies in shared memory")
        begin = -(-self._used // _ALIGNMENT) * _ALIGNMENT
        count = element_count(shape)
        end = begin + count * kind.itemsize
        if end > self.size:
            raise MemoryError(
                f"an array of {kind}{dims(shape)} needs {end - begin} bytes, but {begin} of the "
                f"{self.size} bytes of shared memory are used"
            )
        self._used = end
        view = np.frombuffer(self._memory, kind, count, begin).reshape(shape)
        return SharedArray(view, self.name, begin)

    def unlink(self) -> None:
        """Remove the object's name; the memory is freed when nobody uses it any more."""
        self._path.unlink(missing_ok=True)
