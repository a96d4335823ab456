"""Shared memory objects: opened by the rules, read and written without being mapped."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import InvalidRequest, RegionUnavailable
from service.rpc.system_memory import SystemMemory
from tests.support.shared import Segment, descriptors_of, segment

SIZE = 64


@pytest.fixture
def made() -> Iterator[Segment]:
    """Make an object of 64 bytes that count up."""
    with segment(SIZE, bytes(range(SIZE))) as one:
        yield one


def test_a_part_is_read_and_written(made: Segment) -> None:
    """Offsets count from where the region begins; nothing else of the object changes."""
    memory = SystemMemory(made.key, 16, 32)
    assert memory.read(4, 3) == bytes([20, 21, 22])
    memory.write(0, b"abc")
    assert made.contents == bytes(range(16)) + b"abc" + bytes(range(19, SIZE))
    memory.write(0, b"")
    assert memory.read(0, 0) == b""
    memory.close()
    assert made.path.exists()


@pytest.mark.parametrize("slashes", ["", "/", "///"])
def test_leading_slashes_mean_nothing(made: Segment, slashes: str) -> None:
    """A key is taken as shm_open(3) takes it."""
    SystemMemory(slashes + made.key.lstrip("/"), 0, SIZE).close()


@pytest.mark.parametrize(
    "key",
    [
        "", "/", ".", "..", "../x", "/../x", "/etc/passwd", "a/b", "x/", "a\0b", "x" * 256,
        "é" * 128, "triton_python_backend_shm_region_1", "//triton_python_backend_shm_region_1",
        "sem.x",
    ],
)  # fmt: skip
def test_keys_that_are_no_clients_are_refused(key: str) -> None:
    """A key is the name of an object: no path, no other program's, not too long."""
    with pytest.raises(InvalidRequest, match="key '"):
        SystemMemory(key, 0, 1)


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, SIZE + 1),
        (SIZE, 1),
        (1, SIZE),
        (0, 0),
        (SIZE, 0),
        (0, (1 << 64) - 1),
        ((1 << 64) - 1, 2),
    ],
)
def test_part_must_be_inside(made: Segment, offset: int, size: int) -> None:
    """No part reaches beyond the object, or is empty; nothing overflows."""
    with pytest.raises(InvalidRequest, match=f"which has {SIZE}"):
        SystemMemory(made.key, offset, size)
    assert descriptors_of(os.getpid(), made) == 0


def test_missing_object_cannot_be_opened() -> None:
    """An object that is not there is told by its key, and by no path of the server's."""
    with pytest.raises(RegionUnavailable, match=r"^Unable to open shared memory region: '/nope'"):
        SystemMemory("/nope", 0, 1)


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_regular_files_are_objects(made: Segment, kind: str) -> None:
    """Neither a link to an object nor a pipe is opened, and nothing blocks on it."""
    made.unlink()
    if kind == "link":
        made.path.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(made.path)
    else:
        made.path.mkdir()
    try:
        with pytest.raises((InvalidRequest, RegionUnavailable)):
            SystemMemory(made.key, 0, 1)
    finally:
        made.path.rmdir() if kind == "directory" else made.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give objects away")
def test_objects_of_others_are_not_opened_for_a_client(made: Segment) -> None:
    """Root, who may open anything, takes of others only what they share with everybody."""
    os.chown(made.path, 12345, 12345)
    with pytest.raises(InvalidRequest, match="belongs to another user"):
        SystemMemory(made.key, 0, SIZE)
    made.path.chmod(0o666)
    SystemMemory(made.key, 0, SIZE).close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give objects away")
@pytest.mark.parametrize("mode", [0o644, 0o664])
def test_objects_that_others_let_be_read_are_not_written_to(made: Segment, mode: int) -> None:
    """Root, who may write anywhere, writes for a client only where the owner lets everybody."""
    os.chown(made.path, 12345, 12345)
    made.path.chmod(mode)
    memory = SystemMemory(made.key, 0, SIZE)
    with pytest.raises(InvalidRequest, match="may only be read by the server"):
        memory.write(0, b"x")
    assert memory.read(0, 1) == b"\0"
    memory.close()


def test_object_that_shrinks_is_an_error_and_no_signal(made: Segment) -> None:
    """What is gone cannot be read; a write does not make the object longer again."""
    memory = SystemMemory(made.key, 8, SIZE - 8)
    made.resize(16)
    assert memory.read(0, 8) == bytes(range(8, 16))
    with pytest.raises(InvalidRequest, match="was cut short since it was registered: it has 16"):
        memory.read(0, 9)
    with pytest.raises(InvalidRequest, match="was cut short"):
        memory.read(20, 4)
    with pytest.raises(InvalidRequest, match="was cut short"):
        memory.write(0, bytes(9))
    assert len(made.contents) == 16
    memory.close()


def test_unlinked_object_lives_on(made: Segment) -> None:
    """The memory is there as long as it is registered, also without its name."""
    memory = SystemMemory(made.key, 0, SIZE)
    made.unlink()
    memory.write(0, b"new")
    assert memory.read(0, 4) == b"new\x03"
    memory.close()


def test_object_that_may_only_be_read_holds_inputs(
    made: Segment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server may not write, reading works, and a write says why it does not."""
    opens = os.open

    def refusing(path: Path, flags: int) -> int:
        if flags & os.O_ACCMODE == os.O_RDWR:
            raise PermissionError(13, "Permission denied")
        return opens(path, flags)

    monkeypatch.setattr(os, "open", refusing)
    memory = SystemMemory(made.key, 0, SIZE)
    assert memory.read(1, 1) == b"\x01"
    with pytest.raises(InvalidRequest, match="may only be read by the server"):
        memory.write(0, b"x")
    memory.close()


def test_no_memory_left_is_told(made: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full /dev/shm, which would end a process that maps it, is an error of the request."""

    def full(_descriptor: int, _contents: bytes, _offset: int) -> int:
        raise OSError(28, "No space left on device")

    memory = SystemMemory(made.key, 0, SIZE)
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(RegionUnavailable, match="cannot be written: No space left on device"):
        memory.write(0, b"x")
    memory.close()
