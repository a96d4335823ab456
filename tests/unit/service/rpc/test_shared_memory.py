"""The RPCs of CUDA memory on a machine that has some; those of the system run in integration."""

import pytest

from service.errors import InvalidRequest, RegionExists
from service.pb.grpc_service_pb2 import (
    CudaSharedMemoryRegisterRequest,
    CudaSharedMemoryStatusRequest,
    CudaSharedMemoryStatusResponse,
    CudaSharedMemoryUnregisterRequest,
    SystemSharedMemoryRegisterRequest,
)
from service.rpc.regions import Memory, Place, Regions
from service.rpc.shared_memory import SharedMemoryService
from tests.support.shared import segment


class FakeMemory:
    """Memory of zeros."""

    def __init__(self) -> None:
        self.closed = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return zeros."""
        del offset
        return bytes(size)

    def write(self, offset: int, contents: bytes) -> None:
        """Write nothing."""

    def close(self) -> None:
        """Count."""
        self.closed += 1


class Bench:
    """The service with a GPU of its own."""

    def __init__(self) -> None:
        self.regions = Regions(enabled=True, limit=8)
        self.asked: list[tuple[bytes, int, int]] = []
        self.memory = FakeMemory()
        self.service = SharedMemoryService(self.regions, self._open)

    def _open(self, handle: bytes, device: int, size: int) -> Memory:
        self.asked.append((handle, device, size))
        if handle == b"bad":
            raise InvalidRequest("the handle has 3 bytes, expected 64")
        return self.memory

    def register(self, name: str, handle: bytes = b"h") -> None:
        """Register 100 bytes on GPU 3."""
        request = CudaSharedMemoryRegisterRequest(
            name=name, raw_handle=handle, device_id=3, byte_size=100
        )
        self.service.register_cuda(request.SerializeToString())

    def status(self) -> dict[str, tuple[int, int]]:
        """Return device and size by name."""
        answer = self.service.cuda_status(CudaSharedMemoryStatusRequest().SerializeToString())
        regions = CudaSharedMemoryStatusResponse.FromString(answer).regions
        return {name: (region.device_id, region.byte_size) for name, region in regions.items()}


def test_memory_of_a_gpu_is_a_region() -> None:
    """What is registered is told, can be read, and is closed when it is forgotten."""
    bench = Bench()
    bench.register("n")
    assert bench.asked == [(b"h", 3, 100)]
    assert bench.status() == {"n": (3, 100)}
    assert bench.regions.window(Place("n", 90, 10)).read() == bytes(10)
    given: list[bytes] = []
    message = CudaSharedMemoryUnregisterRequest().SerializeToString()
    bench.service.unregister_cuda(message, given.append)
    assert (given, bench.status(), bench.memory.closed) == ([b""], {}, 1)


def test_what_is_refused_says_why() -> None:
    """The text is Triton's, with the reason after the name; nothing is registered."""
    bench = Bench()
    with pytest.raises(
        InvalidRequest,
        match=r"^failed to register CUDA shared memory region: 'n', the handle has 3 bytes",
    ):
        bench.register("n", b"bad")
    assert bench.status() == {}


def test_names_of_both_kinds_exclude_each_other() -> None:
    """A name of memory of the system cannot be one of a GPU's as well; nothing is opened for it."""
    bench = Bench()
    with segment(8) as made:
        request = SystemSharedMemoryRegisterRequest(name="n", key=made.key, byte_size=8)
        bench.service.register_system(request.SerializeToString())
        with pytest.raises(RegionExists):
            bench.register("n")
    assert bench.asked == []
    bench.regions.close()
