"""The RPCs of the server on a grpcio channel, typed."""

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import grpc

from service.pb.grpc_service_pb2 import (
    CudaSharedMemoryRegisterRequest,
    CudaSharedMemoryRegisterResponse,
    CudaSharedMemoryStatusRequest,
    CudaSharedMemoryStatusResponse,
    CudaSharedMemoryUnregisterRequest,
    CudaSharedMemoryUnregisterResponse,
    LogSettingsRequest,
    LogSettingsResponse,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatistics,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    ModelStreamInferResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
    SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse,
    SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse,
    TraceSettingRequest,
    TraceSettingResponse,
)

SERVICE = "/inference.GRPCInferenceService"
WAIT_S = 30.0  # longest wait for anything that must happen


class Stub:
    """GRPCInferenceService on a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        def typed(method: str, request: Any, response: Any) -> Any:
            return channel.unary_unary(
                f"{SERVICE}/{method}", request.SerializeToString, response.FromString
            )

        self.channel = channel
        self.infer = typed("ModelInfer", ModelInferRequest, ModelInferResponse)
        self.live = typed("ServerLive", ServerLiveRequest, ServerLiveResponse)
        self.ready = typed("ServerReady", ServerReadyRequest, ServerReadyResponse)
        self.metadata = typed("ServerMetadata", ServerMetadataRequest, ServerMetadataResponse)
        self.model_ready = typed("ModelReady", ModelReadyRequest, ModelReadyResponse)
        self.model_metadata = typed("ModelMetadata", ModelMetadataRequest, ModelMetadataResponse)
        self.model_config = typed("ModelConfig", ModelConfigRequest, ModelConfigResponse)
        self.statistics = typed("ModelStatistics", ModelStatisticsRequest, ModelStatisticsResponse)
        self.index = typed("RepositoryIndex", RepositoryIndexRequest, RepositoryIndexResponse)
        self.system_status, self.register_system, self.unregister_system = (
            typed(f"SystemSharedMemory{verb}", *messages)
            for verb, messages in (
                ("Status", (SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse)),
                (
                    "Register",
                    (SystemSharedMemoryRegisterRequest, SystemSharedMemoryRegisterResponse),
                ),
                (
                    "Unregister",
                    (SystemSharedMemoryUnregisterRequest, SystemSharedMemoryUnregisterResponse),
                ),
            )
        )
        self.cuda_status, self.register_cuda, self.unregister_cuda = (
            typed(f"CudaSharedMemory{verb}", *messages)
            for verb, messages in (
                ("Status", (CudaSharedMemoryStatusRequest, CudaSharedMemoryStatusResponse)),
                ("Register", (CudaSharedMemoryRegisterRequest, CudaSharedMemoryRegisterResponse)),
                (
                    "Unregister",
                    (CudaSharedMemoryUnregisterRequest, CudaSharedMemoryUnregisterResponse),
                ),
            )
        )
        self.load = typed(
            "RepositoryModelLoad", RepositoryModelLoadRequest, RepositoryModelLoadResponse
        )
        self.unload = typed(
            "RepositoryModelUnload", RepositoryModelUnloadRequest, RepositoryModelUnloadResponse
        )
        self.trace = typed("TraceSetting", TraceSettingRequest, TraceSettingResponse)
        self.logs = typed("LogSettings", LogSettingsRequest, LogSettingsResponse)
        self.raw_infer = channel.unary_unary(
            f"{SERVICE}/ModelInfer", _as_it_is, ModelInferResponse.FromString
        )
        self.stream = channel.stream_stream(
            f"{SERVICE}/ModelStreamInfer",
            ModelInferRequest.SerializeToString,
            ModelStreamInferResponse.FromString,
        )
        self.raw_stream = channel.stream_stream(
            f"{SERVICE}/ModelStreamInfer", _as_it_is, ModelStreamInferResponse.FromString
        )

    def stats_of(self, model: str) -> ModelStatistics:
        """Return the statistics of the only ready version of a model."""
        response: ModelStatisticsResponse = self.statistics(
            ModelStatisticsRequest(name=model), timeout=WAIT_S
        )
        (statistics,) = response.model_stats
        return statistics


class Outgoing:
    """The requests of a stream, given one at a time; iterate over it once."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Any] = SimpleQueue()

    def send(self, *requests: Any) -> None:
        """Send requests."""
        for request in requests:
            self._queue.put(request)

    def half_close(self) -> None:
        """Send no more."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._queue.get, None)


def unary(channel: grpc.Channel, method: str) -> Any:
    """Return a unary method that takes and gives bytes."""
    return channel.unary_unary(method, _as_it_is, _as_it_is)


def stream(channel: grpc.Channel, method: str) -> Any:
    """Return a bidirectional streaming method that takes and gives bytes."""
    return channel.stream_stream(method, _as_it_is, _as_it_is)


def refusal(call: Any, *arguments: Any, **named: Any) -> tuple[grpc.StatusCode, str]:
    """Return code and message of the error that a call must end with."""
    named.setdefault("timeout", WAIT_S)
    try:
        call(*arguments, **named)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    raise AssertionError("the server accepted what it should refuse")


def _as_it_is(message: bytes) -> bytes:
    return message
