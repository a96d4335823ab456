"""Memory of a GPU that another process shares: opened by its IPC handle, copied from and to.

The CUDA runtime that onnxruntime has loaded is called by ctypes. Never tried on a GPU so far: the
tests run it against a library of their own with the same functions.
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from service.errors import InvalidRequest
from service.runtime.pinning import cuda_runtime

_SUCCESS: Final = 0
_HANDLE_BYTES: Final = 64  # CUDA_IPC_HANDLE_SIZE
_LAZY_PEER_ACCESS: Final = 1  # cudaIpcMemLazyEnablePeerAccess, the one flag that there is
_HOST_TO_DEVICE: Final = 1
_DEVICE_TO_HOST: Final = 2


class _Handle(ctypes.Structure):
    """cudaIpcMemHandle_t, which is passed by value."""

    _fields_ = (("reserved", ctypes.c_char * _HANDLE_BYTES),)


class CudaMemory:
    """Memory of another process on a GPU of this host. Its methods may be called by any thread."""

    def __init__(self, runtime: ctypes.CDLL, handle: bytes, device_id: int, byte_size: int) -> None:
        """Open the memory; byte_size is what its owner says, CUDA refuses copies beyond it.

        Raises InvalidRequest if the handle, the device or the size can be none.
        """
        if len(handle) != _HANDLE_BYTES:
            raise InvalidRequest(f"the handle has {len(handle)} bytes, expected {_HANDLE_BYTES}")
        if byte_size < 1:
            raise InvalidRequest(f"byte_size is {byte_size}, expected at least 1")
        self._runtime = runtime
        count = ctypes.c_int()
        self._check("count the GPUs", runtime.cudaGetDeviceCount(ctypes.byref(count)))
        if not 0 <= device_id < count.value:
            raise InvalidRequest(f"there is no GPU {device_id}, but {count.value} from 0 on")
        self._device = device_id
        self._pointer = ctypes.c_void_p()
        opened = _Handle.from_buffer_copy(handle)
        with self._on_device():
            self._check(
                "open the handle",
                runtime.cudaIpcOpenMemHandle(
                    ctypes.byref(self._pointer), opened, ctypes.c_uint(_LAZY_PEER_ACCESS)
                ),
            )

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of size bytes. Raises InvalidRequest if CUDA refuses it."""
        contents = ctypes.create_string_buffer(size)
        self._copy(contents, self._at(offset), size, _DEVICE_TO_HOST)
        return contents.raw

    def write(self, offset: int, contents: bytes) -> None:
        """Write contents at offset. Raises InvalidRequest if CUDA refuses it."""
        source = ctypes.c_char_p(contents)
        self._copy(self._at(offset), source, len(contents), _HOST_TO_DEVICE)

    def close(self) -> None:
        """Give the memory back to its owner; with a GPU that is lost it is gone."""
        with suppress(InvalidRequest), self._on_device():
            self._runtime.cudaIpcCloseMemHandle(self._pointer)

    def _at(self, offset: int) -> ctypes.c_void_p:
        return ctypes.c_void_p((self._pointer.value or 0) + offset)

    def _copy(self, target: object, source: object, size: int, direction: int) -> None:
        with self._on_device():
            status = self._runtime.cudaMemcpy(target, source, ctypes.c_size_t(size), direction)
            self._check(f"copy {size} bytes", status)

    @contextmanager
    def _on_device(self) -> Iterator[None]:
        """Have this thread on the memory's GPU, and afterwards where it was."""
        before = ctypes.c_int()
        self._check("ask for the GPU", self._runtime.cudaGetDevice(ctypes.byref(before)))
        self._check("take the GPU", self._runtime.cudaSetDevice(self._device))
        try:
            yield
        finally:
            self._runtime.cudaSetDevice(before.value)

    def _check(self, what: str, status: int) -> None:
        if status == _SUCCESS:
            return
        self._runtime.cudaGetLastError()  # else the next call of onnxruntime would find it
        describe = self._runtime.cudaGetErrorString
        describe.restype = ctypes.c_char_p
        reason = (describe(status) or b"").decode(errors="replace")
        raise InvalidRequest(f"CUDA cannot {what}: {reason} (error {status})")


def open_cuda_memory(handle: bytes, device_id: int, byte_size: int) -> CudaMemory:
    """Open memory of another process. Raises InvalidRequest if it cannot be, also without a GPU."""
    runtime = cuda_runtime()
    if runtime is None:
        raise InvalidRequest("GPUs not supported")
    return CudaMemory(runtime, handle, device_id, byte_size)


def refuse_cuda_memory(_handle: bytes, _device_id: int, _byte_size: int) -> CudaMemory:
    """Open nothing, where the server is not to use a GPU. Raises InvalidRequest."""
    raise InvalidRequest("GPUs not supported")
