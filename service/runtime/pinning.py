"""Page-locked host memory, from which a GPU copies without a detour through the driver's own.

onnxruntime's Python API cannot allocate it, so that arrays of ours are registered with the CUDA
runtime that onnxruntime has loaded.
"""

import ctypes
import logging
from collections.abc import Callable
from functools import cache
from typing import Final, Protocol, TypeAlias

from service.tensors import Array

_LOG = logging.getLogger(__name__)
_LIBRARIES: Final = ("libcudart.so.13", "libcudart.so.12")  # by the CUDA of onnxruntime-gpu
_SUCCESS: Final = 0

Unpin: TypeAlias = Callable[[], None]


class Pin(Protocol):
    """Page-locks an array and returns what undoes it, to be called before the array is freed."""

    def __call__(self, array: Array) -> Unpin:
        """Lock the memory of a contiguous array."""


def leave_pageable(array: Array) -> Unpin:
    """Lock nothing."""
    del array
    return _nothing


def pin_for_cuda(array: Array) -> Unpin:
    """Register with CUDA; memory that cannot be locked stays as it is, which is only slower."""
    runtime = _runtime_that_pins()
    if runtime is None or not array.nbytes:
        return _nothing
    address = ctypes.c_void_p(array.ctypes.data)
    status = runtime.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0))
    if status != _SUCCESS:
        _LOG.info("%d bytes stay pageable: CUDA error %d", array.nbytes, status)
        return _nothing
    return lambda: runtime.cudaHostUnregister(address)


def cuda_runtime() -> ctypes.CDLL | None:
    """Return the CUDA runtime of this process, None if there is none."""
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


@cache
def _runtime_that_pins() -> ctypes.CDLL | None:
    runtime = cuda_runtime()
    if runtime is None:
        _LOG.info("buffers stay pageable: none of %s can be loaded", ", ".join(_LIBRARIES))
    return runtime


def _nothing() -> None:
    """Undo nothing."""
