"""Memory of a GPU, through a library that has the functions of CUDA's and no GPU.

It shows that the functions are called as their C declarations want it, not that a GPU does it.
"""

import ctypes
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from service.errors import InvalidRequest
from service.runtime import cuda_memory
from service.runtime.cuda_memory import CudaMemory, open_cuda_memory, refuse_cuda_memory

_SOURCE = r"""
#include <stddef.h>
#include <string.h>
typedef struct { char reserved[64]; } handle_t;
static char memory[256];
static _Thread_local int device = 0;
static int last = 0, is_lost = 0;
void lose(void) { is_lost = 1; }
int opened = 0, closed = 0, flags_seen = -1, device_seen = -1;

static int fail(int status) { last = status; return status; }
int last_error(void) { return last; }
int current_device(void) { return device; }
int cudaGetDeviceCount(int *count) { *count = 2; return 0; }
int cudaGetDevice(int *out) { *out = device; return is_lost ? fail(46) : 0; }
int cudaSetDevice(int wanted) { device = wanted; return 0; }
int cudaGetLastError(void) { int was = last; last = 0; return was; }
const char *cudaGetErrorString(int status) { return status == 1 ? "invalid argument" : "other"; }
int cudaIpcOpenMemHandle(void **out, handle_t handle, unsigned flags) {
    if (handle.reserved[0] != 'h' || handle.reserved[63] != 'e') return fail(1);
    for (int i = 0; i < 256; i++) memory[i] = (char)i;
    flags_seen = (int)flags; device_seen = device; opened++; *out = memory;
    return 0;
}
int cudaIpcCloseMemHandle(void *pointer) { closed += pointer == memory; return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    const char *on_gpu = kind == 1 ? to : from;
    if (kind != 1 && kind != 2) return fail(21);
    if (device != device_seen || on_gpu < memory || on_gpu + size > memory + sizeof memory)
        return fail(1);
    memcpy(to, from, size);
    return 0;
}
"""
HANDLE = b"h" + b"\0" * 62 + b"e"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the library."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("cuda")
    (folder / "cudart.c").write_text(_SOURCE)
    command: list[str | Path] = [
        compiler,
        "-shared",
        "-fPIC",
        "-o",
        folder / "libcudart.so",
        folder / "cudart.c",
    ]
    subprocess.run(command, check=True, timeout=60)
    return folder / "libcudart.so"


@pytest.fixture
def runtime(library: Path, tmp_path: Path) -> ctypes.CDLL:
    """Load a copy of the library, whose counters are at zero."""
    return ctypes.CDLL(str(shutil.copy(library, tmp_path / "libcudart.so")))


def test_memory_is_opened_copied_and_given_back(runtime: ctypes.CDLL) -> None:
    """Handle, flag, pointers, sizes and directions arrive as CUDA expects them."""
    memory = CudaMemory(runtime, HANDLE, 1, 256)
    assert ctypes.c_int.in_dll(runtime, "flags_seen").value == 1
    assert memory.read(10, 3) == bytes([10, 11, 12])
    memory.write(250, b"a\0b")
    assert memory.read(249, 5) == b"\xf9a\0b\xfd"
    assert memory.read(0, 0) == b""
    memory.close()
    assert ctypes.c_int.in_dll(runtime, "opened").value == 1
    assert ctypes.c_int.in_dll(runtime, "closed").value == 1


def test_threads_stay_on_their_gpu(runtime: ctypes.CDLL) -> None:
    """Any thread may copy, and is on the GPU afterwards that it was on before."""
    memory = CudaMemory(runtime, HANDLE, 1, 256)
    found: list[tuple[bytes, int]] = []
    thread = threading.Thread(
        target=lambda: found.append((memory.read(1, 1), runtime.current_device()))
    )
    thread.start()
    thread.join()
    assert found == [(b"\x01", 0)]
    assert runtime.current_device() == 0


def test_memory_of_a_gpu_that_is_lost_is_let_go_of(runtime: ctypes.CDLL) -> None:
    """Whoever lets go of several regions gets to the others; to use one is still an error."""
    memory = CudaMemory(runtime, HANDLE, 1, 256)
    runtime.lose()
    with pytest.raises(InvalidRequest, match="error 46"):
        memory.read(0, 1)
    memory.close()


def test_what_cuda_refuses_is_told_and_forgotten(runtime: ctypes.CDLL) -> None:
    """The text has CUDA's reason, and the error is not left for somebody else to find."""
    memory = CudaMemory(runtime, HANDLE, 0, 1 << 40)
    with pytest.raises(InvalidRequest, match=r"copy 257 bytes: invalid argument \(error 1\)"):
        memory.read(0, 257)
    with pytest.raises(InvalidRequest, match="invalid argument"):
        memory.write(255, b"ab")
    with pytest.raises(InvalidRequest, match="CUDA cannot open the handle: invalid argument"):
        CudaMemory(runtime, bytes(64), 0, 1)
    assert runtime.last_error() == 0


@pytest.mark.parametrize(
    ("handle", "device", "size", "reason"),
    [
        (HANDLE[:-1], 0, 1, "the handle has 63 bytes, expected 64"),
        (b"", 0, 1, "the handle has 0 bytes"),
        (HANDLE * 2, 0, 1, "the handle has 128 bytes"),
        (HANDLE, 0, 0, "byte_size is 0"),
        (HANDLE, 2, 1, "there is no GPU 2, but 2 from 0 on"),
        (HANDLE, -1, 1, "there is no GPU -1"),
    ],
)
def test_what_can_be_no_memory_is_refused(
    runtime: ctypes.CDLL, handle: bytes, device: int, size: int, reason: str
) -> None:
    """Nothing is opened for a handle, a device or a size that can be none."""
    with pytest.raises(InvalidRequest, match=reason):
        CudaMemory(runtime, handle, device, size)
    assert ctypes.c_int.in_dll(runtime, "opened").value == 0


def test_library_of_the_process_is_taken(
    runtime: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is opened with the CUDA runtime that is there; without one there are no GPUs."""
    monkeypatch.setattr(cuda_memory, "cuda_runtime", lambda: runtime)
    assert open_cuda_memory(HANDLE, 0, 256).read(5, 1) == b"\x05"
    monkeypatch.setattr(cuda_memory, "cuda_runtime", lambda: None)
    for refuse in (open_cuda_memory, refuse_cuda_memory):
        with pytest.raises(InvalidRequest, match=r"^GPUs not supported$"):
            refuse(HANDLE, 0, 256)
