"""The method table: what is served under which name, how it is answered, and what it belongs to."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from service.errors import Unsupported

INFERENCE: Final = "inference.GRPCInferenceService"
HEALTH: Final = "grpc.health.v1.Health"
INFER: Final = f"/{INFERENCE}/ModelInfer"
STREAM_INFER: Final = f"/{INFERENCE}/ModelStreamInfer"

# What may be restricted, by the names that Triton has for it, and the RPCs that each comprises.
_RPCS: Final[Mapping[str, tuple[str, ...]]] = {
    "health": ("ServerLive", "ServerReady", "ModelReady"),
    "metadata": ("ServerMetadata", "ModelMetadata"),
    "inference": ("ModelInfer", "ModelStreamInfer"),
    "shared-memory": (
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
    ),
    "model-config": ("ModelConfig",),
    "model-repository": ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    "statistics": ("ModelStatistics",),
    "trace": ("TraceSetting",),
    "logging": ("LogSettings",),
}
CATEGORIES: Final = tuple(_RPCS)
CATEGORY_OF: Final[Mapping[str, str]] = {
    **{f"/{INFERENCE}/{name}": category for category, names in _RPCS.items() for name in names},
    **{f"/{HEALTH}/{name}": "health" for name in ("Check", "List", "Watch")},
}

Answer: TypeAlias = Callable[[bytes], bytes]  # raises RequestError


@dataclass(frozen=True, slots=True)
class Slow:
    """An answer that may take long: it is made on a thread of its own.

    key: of a message; with equal keys one is made after another, in the order of the calls.
    kind: what the call is to do; calls of one kind share a few threads, and wait for no other.
    """

    answer: Answer
    key: Callable[[bytes], bytes]
    kind: str


@dataclass(frozen=True, slots=True)
class Later:
    """An answer that waits for others and needs no thread meanwhile.

    begin: takes a message and whom to give the reply, at once or on any thread; raises
    RequestError, and gives none then.
    """

    begin: Callable[[bytes, Callable[[bytes], None]], None]


AnyAnswer: TypeAlias = Answer | Slow | Later


class Service(Protocol):
    """Some RPCs of GRPCInferenceService."""

    @property
    def answers(self) -> Mapping[str, AnyAnswer]:
        """Return what answers each RPC, by its name without that of the service."""


def inference_answers(services: Iterable[Service]) -> dict[str, AnyAnswer]:
    """Return what answers each unary RPC but ModelInfer, by full name; all others refuse."""
    served: dict[str, AnyAnswer] = {}
    for names in _RPCS.values():
        served.update((f"/{INFERENCE}/{name}", _unserved) for name in names)
    for service in services:
        for name, answer in service.answers.items():
            served[f"/{INFERENCE}/{name}"] = answer
    del served[INFER], served[STREAM_INFER]
    return served


def _unserved(_message: bytes) -> bytes:
    raise Unsupported("not served by this version of Penstock")
