"""POSIX shared memory of clients: objects under /dev/shm, read and written, never mapped.

A mapping whose object its client cuts short ends the process by SIGBUS at the next access; pread
and pwrite through a descriptor merely report it. docs/decisions/0020 has the reasons and the cost.
"""

import errno
import os
import stat
from pathlib import Path
from typing import Final

from service.errors import InvalidRequest, RegionUnavailable, shown

DIRECTORY: Final = Path("/dev/shm")  # noqa: S108  where shm_open(3) of glibc and musl puts objects
_MAX_KEY: Final = 255  # bytes, NAME_MAX
# The first are Triton's own, which its clients are kept from; the second are POSIX semaphores.
_RESERVED: Final = ("triton_python_backend_shm_region_", "sem.")
_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class SystemMemory:
    """A part of a shared memory object. The object is never unlinked, cut or extended."""

    def __init__(self, key: str, offset: int, byte_size: int) -> None:
        """Open byte_size bytes at offset of the object that clients know by key.

        Raises InvalidRequest if that can be nothing of a client's, or is not inside the object;
        RegionUnavailable if the object cannot be opened.
        """
        name = _object_name(key)
        self._key = shown(key)
        self._descriptor, self._is_writable = _open(name, self._key)
        self._start = offset
        try:
            self._check(byte_size)
        except BaseException:
            self.close()
            raise

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of size bytes. Raises InvalidRequest if the object has become shorter."""
        at = self._start + offset
        try:
            contents = os.pread(self._descriptor, size, at)
        except OSError as error:
            raise self._unavailable("read", error) from None
        if len(contents) < size:  # of less than 2 GiB, which no request exceeds, all comes at once
            raise self._cut_short(at + size)
        return contents

    def write(self, offset: int, contents: bytes) -> None:
        """Write contents at offset.

        Raises InvalidRequest if the object has become shorter or may only be read,
        RegionUnavailable if there is no memory left for it.
        """
        at = self._start + offset
        if not self._is_writable:
            raise InvalidRequest(
                f"shared memory object '{self._key}' may only be read by the server: it can hold "
                "inputs, no outputs",
            )
        try:
            if os.fstat(self._descriptor).st_size < at + len(contents):  # do not make it longer
                raise self._cut_short(at + len(contents))
            left = memoryview(contents)
            while left:
                left = left[os.pwrite(self._descriptor, left, at + len(contents) - len(left)) :]
        except OSError as error:
            raise self._unavailable("written", error) from None

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def _check(self, byte_size: int) -> None:
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidRequest(f"'{self._key}' is no shared memory object")
        if not _lets_us(status, stat.S_IRUSR):
            raise InvalidRequest(f"'{self._key}' belongs to another user, who does not share it")
        self._is_writable = self._is_writable and _lets_us(status, stat.S_IWUSR)
        if byte_size <= 0 or self._start + byte_size > status.st_size:
            raise InvalidRequest(
                f"{byte_size} bytes at offset {self._start} are not inside '{self._key}', which "
                f"has {status.st_size}",
            )

    def _cut_short(self, wanted: int) -> InvalidRequest:
        size = os.fstat(self._descriptor).st_size
        return InvalidRequest(
            f"shared memory object '{self._key}' was cut short since it was registered: it has "
            f"{size} bytes, expected at least {wanted}",
        )

    def _unavailable(self, verb: str, error: OSError) -> RegionUnavailable:
        reason = error.strerror
        return RegionUnavailable(
            f"shared memory object '{self._key}' cannot be {verb}: {reason}",
        )


def _object_name(key: str) -> str:
    """Return the name of the object of a key, which is a file of DIRECTORY and nothing else."""
    name = key.lstrip("/")  # as shm_open(3) takes it
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidRequest(f"key '{shown(key)}' is not the name of a shared memory object")
    if len(name.encode()) > _MAX_KEY:
        raise InvalidRequest(f"key '{shown(key)}' is longer than {_MAX_KEY} bytes")
    if name.startswith(_RESERVED):
        raise InvalidRequest(f"key '{shown(key)}' begins like names that are not a client's")
    return name


def _open(name: str, shown_key: str) -> tuple[int, bool]:
    """Return a descriptor, and whether it can be written to."""
    path = DIRECTORY / name
    try:
        return os.open(path, os.O_RDWR | _FLAGS), True
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise _cannot_open(shown_key, error) from None
    try:
        return os.open(path, os.O_RDONLY | _FLAGS), False
    except OSError as error:
        raise _cannot_open(shown_key, error) from None


def _cannot_open(shown_key: str, error: OSError) -> RegionUnavailable:
    return RegionUnavailable(
        f"Unable to open shared memory region: '{shown_key}' ({error.strerror})",
    )


def _lets_us(status: os.stat_result, permission: int) -> bool:
    """Tell whether the owner lets us. Root may do anything, and must not for a client.

    permission: as the owner's bit of the mode.
    """
    if status.st_uid == os.geteuid():
        return True
    groups = {os.getegid(), *os.getgroups()}
    return bool(status.st_mode & (permission >> (3 if status.st_gid in groups else 6)))
