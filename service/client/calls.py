"""The calls without tensors: what goes out and what is made of the answer. No input or output."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from service.client.options import HEALTH, SERVICE
from service.client.segment import Segment
from service.pb import grpc_service_pb2 as pb
from service.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from service.pb.model_config_pb2 import ModelConfig

R = TypeVar("R")
INFER: Final = f"/{SERVICE}/ModelInfer"
STREAM_INFER: Final = f"/{SERVICE}/ModelStreamInfer"


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One unary call. read: makes the result of the bytes of the answer. model: for errors."""

    path: str
    request: bytes
    read: Callable[[bytes], R]
    model: str = ""
    request_id: str = ""


def server_metadata() -> Call[pb.ServerMetadataResponse]:
    """Ask for name, version and extensions of the server."""
    request = pb.ServerMetadataRequest().SerializeToString()
    return Call(_path("ServerMetadata"), request, pb.ServerMetadataResponse.FromString)


def model_metadata(name: str, version: str) -> Call[pb.ModelMetadataResponse]:
    """Ask for the signature of a model."""
    request = pb.ModelMetadataRequest(name=name, version=version).SerializeToString()
    return Call(_path("ModelMetadata"), request, pb.ModelMetadataResponse.FromString, name)


def model_config(name: str, version: str) -> Call[ModelConfig]:
    """Ask for the configuration of a model."""
    request = pb.ModelConfigRequest(name=name, version=version).SerializeToString()
    return Call(
        _path("ModelConfig"),
        request,
        lambda data: pb.ModelConfigResponse.FromString(data).config,
        name,
    )


def ready(model: str, version: str) -> Call[bool]:
    """Ask whether a model is ready; model "": whether the server is."""
    if not model:
        request = pb.ServerReadyRequest().SerializeToString()
        return Call(
            _path("ServerReady"),
            request,
            lambda data: pb.ServerReadyResponse.FromString(data).ready,
        )
    request = pb.ModelReadyRequest(name=model, version=version).SerializeToString()
    return Call(
        _path("ModelReady"),
        request,
        lambda data: pb.ModelReadyResponse.FromString(data).ready,
        model,
    )


def index() -> Call[list[pb.RepositoryIndexResponse.ModelIndex]]:
    """Ask for every version that the server knows."""
    return Call(
        _path("RepositoryIndex"),
        pb.RepositoryIndexRequest().SerializeToString(),
        lambda data: list(pb.RepositoryIndexResponse.FromString(data).models),
    )


def statistics(model: str, version: str) -> Call[list[pb.ModelStatistics]]:
    """Ask for counts and durations of one model, or of all ("")."""
    request = pb.ModelStatisticsRequest(name=model, version=version).SerializeToString()
    return Call(
        _path("ModelStatistics"),
        request,
        lambda data: list(pb.ModelStatisticsResponse.FromString(data).model_stats),
        model,
    )


def health(service: str) -> Call[str]:
    """Ask for the status of the server ("") or of a model."""
    request = HealthCheckRequest(service=service).SerializeToString()
    return Call(f"/{HEALTH}/Check", request, _read_health, service)


def load(model: str, config: str, files: Mapping[str, bytes]) -> Call[None]:
    """Ask the server to load a model, or to load it again."""
    request = pb.RepositoryModelLoadRequest(model_name=model)
    if config:
        request.parameters["config"].string_param = config
    for path, contents in files.items():
        request.parameters[f"file:{path}"].bytes_param = contents
    return Call(_path("RepositoryModelLoad"), request.SerializeToString(), _nothing, model)


def unload(model: str, *, dependents: bool) -> Call[None]:
    """Ask the server to unload a model, and those that are made of it with dependents."""
    request = pb.RepositoryModelUnloadRequest(model_name=model)
    if dependents:
        request.parameters["unload_dependents"].bool_param = True
    return Call(_path("RepositoryModelUnload"), request.SerializeToString(), _nothing, model)


def register(segment: Segment) -> Call[None]:
    """Ask the server to let requests name a segment."""
    request = pb.SystemSharedMemoryRegisterRequest(
        name=segment.name, key=segment.key, byte_size=segment.size
    )
    return Call(_path("SystemSharedMemoryRegister"), request.SerializeToString(), _nothing)


def unregister(segment: Segment) -> Call[None]:
    """Ask the server to forget a segment."""
    request = pb.SystemSharedMemoryUnregisterRequest(name=segment.name)
    return Call(_path("SystemSharedMemoryUnregister"), request.SerializeToString(), _nothing)


class Signature(NamedTuple):
    """What requests need to know of a model. bf16: its inputs of that type. outputs: names."""

    bf16: frozenset[str]
    outputs: tuple[str, ...]


def signature_of(metadata: pb.ModelMetadataResponse) -> Signature:
    """Return what requests need to know of a model."""
    return Signature(
        frozenset(each.name for each in metadata.inputs if each.datatype == "BF16"),
        tuple(each.name for each in metadata.outputs),
    )


def _path(method: str) -> str:
    return f"/{SERVICE}/{method}"


def _read_health(data: bytes) -> str:
    return HealthCheckResponse.ServingStatus.Name(HealthCheckResponse.FromString(data).status)


def _nothing(_data: bytes) -> None:
    return None
