"""The RPCs that register memory of clients, tell what is registered, and forget it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeAlias

from service.errors import InvalidRequest, RequestError, UnknownRegion, shown
from service.pb.grpc_service_pb2 import (
    CudaSharedMemoryRegisterRequest,
    CudaSharedMemoryRegisterResponse,
    CudaSharedMemoryStatusRequest,
    CudaSharedMemoryStatusResponse,
    CudaSharedMemoryUnregisterRequest,
    CudaSharedMemoryUnregisterResponse,
    SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse,
    SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse,
)
from service.rpc.messages import parse
from service.rpc.methods import Answer, Later
from service.rpc.regions import (
    CudaOrigin,
    KindOfOrigin,
    Memory,
    Origin,
    Region,
    Regions,
    SystemOrigin,
)
from service.rpc.system_memory import SystemMemory

Give: TypeAlias = Callable[[bytes], None]  # takes a serialised response
# Opens memory of a GPU by its IPC handle, the number of the GPU and the size in bytes. Raises
# InvalidRequest if it cannot be opened, or if there is no GPU.
OpenCuda: TypeAlias = Callable[[bytes, int, int], Memory]
EXTENSIONS: Final = ("system_shared_memory", "cuda_shared_memory")


class SharedMemoryService:
    """Every method takes a serialised request, and returns or gives a serialised response."""

    def __init__(self, regions: Regions, open_cuda: OpenCuda) -> None:
        self._regions = regions
        self._open_cuda = open_cuda

    @property
    def answers(self) -> Mapping[str, Answer | Later]:
        """Return what answers each RPC, by its name."""
        return {
            "SystemSharedMemoryStatus": self.system_status,
            "SystemSharedMemoryRegister": self.register_system,
            "SystemSharedMemoryUnregister": Later(self.unregister_system),
            "CudaSharedMemoryStatus": self.cuda_status,
            "CudaSharedMemoryRegister": self.register_cuda,
            "CudaSharedMemoryUnregister": Later(self.unregister_cuda),
        }

    def system_status(self, message: bytes) -> bytes:
        """Answer SystemSharedMemoryStatus. Raises UnknownRegion for a name that is not there."""
        request = parse(SystemSharedMemoryStatusRequest, message)
        response = SystemSharedMemoryStatusResponse()
        for region, origin in self._asked(SystemOrigin, request.name, "system"):
            status = response.regions[region.name]
            status.name, status.key = region.name, origin.key
            status.offset, status.byte_size = origin.offset, region.byte_size
        return response.SerializeToString()

    def register_system(self, message: bytes) -> bytes:
        """Answer SystemSharedMemoryRegister. Raises RequestError."""
        request = parse(SystemSharedMemoryRegisterRequest, message)

        def opened() -> Memory:
            return SystemMemory(request.key, request.offset, request.byte_size)

        origin = SystemOrigin(request.key, request.offset)
        refusal = f"shared memory region '{shown(request.name)}': invalid args: "
        self._register(request.name, request.byte_size, origin, opened, refusal)
        return SystemSharedMemoryRegisterResponse().SerializeToString()

    def unregister_system(self, message: bytes, give: Give) -> None:
        """Answer SystemSharedMemoryUnregister when no request writes to the memory any more.

        Raises Unsupported if nothing can be registered.
        """
        request = parse(SystemSharedMemoryUnregisterRequest, message)
        self._regions.check_enabled()
        reply = SystemSharedMemoryUnregisterResponse().SerializeToString()
        self._regions.unregister(SystemOrigin, request.name, partial(give, reply))

    def cuda_status(self, message: bytes) -> bytes:
        """Answer CudaSharedMemoryStatus. Raises UnknownRegion for a name that is not there."""
        request = parse(CudaSharedMemoryStatusRequest, message)
        response = CudaSharedMemoryStatusResponse()
        for region, origin in self._asked(CudaOrigin, request.name, "cuda"):
            status = response.regions[region.name]
            status.name, status.device_id = region.name, origin.device_id
            status.byte_size = region.byte_size
        return response.SerializeToString()

    def register_cuda(self, message: bytes) -> bytes:
        """Answer CudaSharedMemoryRegister. Raises RequestError."""
        request = parse(CudaSharedMemoryRegisterRequest, message)

        def opened() -> Memory:
            return self._open_cuda(request.raw_handle, request.device_id, request.byte_size)

        origin = CudaOrigin(request.device_id)
        refusal = f"CUDA shared memory region: '{shown(request.name)}', "
        self._register(request.name, request.byte_size, origin, opened, refusal)
        return CudaSharedMemoryRegisterResponse().SerializeToString()

    def unregister_cuda(self, message: bytes, give: Give) -> None:
        """Answer CudaSharedMemoryUnregister alike, also where there can be nothing to forget."""
        request = parse(CudaSharedMemoryUnregisterRequest, message)
        reply = CudaSharedMemoryUnregisterResponse().SerializeToString()
        self._regions.unregister(CudaOrigin, request.name, partial(give, reply))

    def _asked(
        self, kind: type[KindOfOrigin], name: str, word: str
    ) -> list[tuple[Region, KindOfOrigin]]:
        regions = self._regions.registered(kind)
        if not name:
            return list(regions.values())
        if name not in regions:
            raise UnknownRegion(f"Unable to find {word} shared memory region: '{shown(name)}'")
        return [regions[name]]

    def _register(
        self, name: str, byte_size: int, origin: Origin, opened: Callable[[], Memory], refusal: str
    ) -> None:
        """refusal: what stands before the reason why the client cannot have what it asks for."""
        self._regions.check_new(name)
        try:
            memory = opened()
        except InvalidRequest as error:
            raise InvalidRequest(f"failed to register {refusal}{error}") from None
        try:
            self._regions.register(Region(name, memory, byte_size, origin))
        except RequestError:  # another thread was faster
            memory.close()
            raise
