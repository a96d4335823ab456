"""Shared memory as a client makes it: objects under /dev/shm, registered and put into requests."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from service.pb.grpc_service_pb2 import (
    ModelInferRequest,
    SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryUnregisterRequest,
)
from service.rpc.system_memory import DIRECTORY
from tests.support.stub import WAIT_S, Stub

Tensor = ModelInferRequest.InferInputTensor | ModelInferRequest.InferRequestedOutputTensor


class Segment:
    """A shared memory object of a client's."""

    def __init__(self, size: int, contents: bytes = b"") -> None:
        self.key = f"/penstock-test-{os.getpid()}-{secrets.token_hex(4)}"
        self.path = DIRECTORY / self.key.lstrip("/")
        self.path.touch(mode=0o600, exist_ok=False)
        self.resize(size)
        self.put(contents)

    @property
    def contents(self) -> bytes:
        """Return all that is in it."""
        return self.path.read_bytes()

    def put(self, contents: bytes, offset: int = 0) -> None:
        """Write contents at an offset."""
        with self.path.open("r+b") as file:
            file.seek(offset)
            file.write(contents)

    def resize(self, size: int) -> None:
        """Make it so long."""
        os.truncate(self.path, size)

    def unlink(self) -> None:
        """Remove its name, if that is still there."""
        self.path.unlink(missing_ok=True)


@contextmanager
def segment(size: int, contents: bytes = b"") -> Iterator[Segment]:
    """Make an object and remove it at the end; the server must have left it in its place."""
    made = Segment(size, contents)
    try:
        yield made
    finally:
        made.unlink()


def register(stub: Stub, name: str, key: str, byte_size: int, *, offset: int = 0) -> None:
    """Register an object, or a part of it."""
    stub.register_system(
        SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=byte_size),
        timeout=WAIT_S,
    )


def unregister(stub: Stub, name: str = "") -> None:
    """Forget a region; all of them for no name."""
    stub.unregister_system(SystemSharedMemoryUnregisterRequest(name=name), timeout=WAIT_S)


def begin_unregister(stub: Stub) -> "grpc.Future[object]":
    """Ask for all regions to be forgotten, and do not wait for the answer."""
    request = SystemSharedMemoryUnregisterRequest()
    future: grpc.Future[object] = stub.unregister_system.future(request, timeout=WAIT_S)
    return future


@contextmanager
def region(stub: Stub, size: int, contents: bytes = b"") -> Iterator[tuple[str, Segment]]:
    """Make and register an object; give its region's name and the object itself."""
    with segment(size, contents) as made:
        name = made.path.name
        register(stub, name, made.key, size)
        try:
            yield name, made
        finally:
            unregister(stub, name)


def place(tensor: Tensor, region: str, size: int, offset: int = 0) -> None:
    """Say that a tensor is in shared memory."""
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def descriptors_of(process_id: int, made: Segment) -> int:
    """Return how many descriptors a process has of an object, also after it was unlinked."""
    count = 0
    for link in Path(f"/proc/{process_id}/fd").iterdir():
        try:
            count += str(link.readlink()).startswith(str(made.path))
        except FileNotFoundError:
            continue  # closed meanwhile
    return count
