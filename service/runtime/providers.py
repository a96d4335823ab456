"""Which execution provider runs a model: what was asked for, what is there, what was taken."""

from enum import Enum
from typing import Any, Final

import onnxruntime as ort

from service.errors import ProviderUnavailable

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"


class Device(Enum):
    """Where models run. AUTO: on CUDA if it works, else on the CPU, and the log says so."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def has_cuda() -> bool:
    """Tell whether this onnxruntime was built with CUDA; that a GPU is there is not sure yet."""
    return CUDA in ort.get_available_providers()


def provider_options(
    device: Device, cuda_device: int = 0, *, graphs: bool = False, memory_bytes: int = 0
) -> list[Any]:
    """Return the providers to ask ONNX Runtime for, best first; see cuda_options.

    Raises ProviderUnavailable if CUDA is demanded and this onnxruntime has none.
    """
    if device is Device.CPU:
        return [CPU]
    if not has_cuda():
        if device is Device.AUTO:
            return [CPU]
        raise ProviderUnavailable(
            f"device cuda was asked for, but the installed onnxruntime {ort.__version__} offers "
            f"{ort.get_available_providers()}. Keep onnxruntime-gpu alone in the environment: "
            "pip uninstall --yes onnxruntime; pip install --force-reinstall onnxruntime-gpu",
        )
    # Libraries of the nvidia-* packages are found without LD_LIBRARY_PATH.
    ort.preload_dlls()
    return [(CUDA, cuda_options(cuda_device, graphs=graphs, memory_bytes=memory_bytes)), CPU]


def cuda_options(device_id: int, *, graphs: bool = False, memory_bytes: int = 0) -> dict[str, str]:
    """Return the options of the CUDA provider.

    graphs: runs may be captured as CUDA graphs. memory_bytes: bound of the session's arena, which
    holds weights, intermediate values and work space; 0: none.
    """
    # EXHAUSTIVE, the default, benchmarks convolutions anew for each new shape.
    options = {"device_id": str(device_id), "cudnn_conv_algo_search": "HEURISTIC"}
    if graphs:
        options["enable_cuda_graph"] = "1"
    if memory_bytes:
        options["gpu_mem_limit"] = str(memory_bytes)
        # The default doubles what it reserves, and so breaks a bound that would suffice.
        options["arena_extend_strategy"] = "kSameAsRequested"
    return options


def check_provider(session: ort.InferenceSession, device: Device) -> str:
    """Return the provider that the session took.

    Raises ProviderUnavailable if CUDA was demanded and the session fell back to the CPU.
    """
    taken: str = session.get_providers()[0]
    if device is Device.CUDA and taken != CUDA:
        raise ProviderUnavailable(
            "device cuda was asked for, but the session fell back to the CPU: ONNX Runtime could "
            "not start CUDA. See its message above; check the driver (nvidia-smi) and that the "
            "CUDA 13 and cuDNN 9 libraries are installed (pip install 'penstock[gpu]'), or serve "
            "with --device auto or --device cpu",
        )
    return taken
