"""A synchronous client: numpy arrays in, numpy arrays out, over one gRPC channel.

Knows the wire (service.pb, service.tensors) and nothing of what serves it: any server of the
Open Inference Protocol answers `infer`, any that has Triton's extensions the rest.
"""

from collections.abc import Generator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import grpc
import numpy.typing as npt
from google.protobuf.message import Message

from service.client.errors import (
    ClientError,
    MalformedAnswer,
    RequestRefused,
    ServerUnreachable,
    translated,
)
from service.client.stream import Answer, WindowedRequests, read_answer
from service.client.wire import build_request, read_outputs
from service.pb import grpc_service_pb2 as pb
from service.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from service.pb.model_config_pb2 import ModelConfig
from service.tensors import BF16, Tensors

__all__ = [
    "Answer",
    "Client",
    "ClientError",
    "MalformedAnswer",
    "RequestRefused",
    "ServerUnreachable",
]

_SERVICE: Final = "/inference.GRPCInferenceService/"
_HEALTH: Final = "/grpc.health.v1.Health/Check"
_UNLIMITED: Final = -1  # answers may be larger than gRPC's default of 4 MiB
M = TypeVar("M", bound=Message)


class Client:
    """One channel to one server. Methods may be called from several threads.

    Arrays of uint16 are sent as UINT16 or BF16, as the model asks. BYTES tensors are arrays of
    bytes or str on the way in, object arrays of bytes on the way out. Outputs may be read-only.
    """

    def __init__(
        self,
        address: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        server_name: str = "",
        deadline: float = 60.0,
    ) -> None:
        """address: HOST:PORT or unix:/PATH; nothing is connected before the first call.

        credentials: of grpc.ssl_channel_credentials; None: no TLS. server_name: name in the
        server's certificate, if it is not that of the address. deadline: seconds for calls that
        give none.
        """
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", _UNLIMITED),
            ("grpc.max_send_message_length", _UNLIMITED),
        ]
        if server_name:
            options.append(("grpc.ssl_target_name_override", server_name))
        self.address = address
        self._deadline = deadline
        self._bf16: dict[tuple[str, str], frozenset[str]] = {}
        self._channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls in progress are cancelled."""
        self._channel.close()

    def metadata(self) -> pb.ServerMetadataResponse:
        """Return name, version and extensions of the server."""
        return self._call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)

    def model_metadata(self, name: str, version: str = "") -> pb.ModelMetadataResponse:
        """Return the signature of a model; version "": the one served by default."""
        request = pb.ModelMetadataRequest(name=name, version=version)
        return self._call("ModelMetadata", request, pb.ModelMetadataResponse)

    def model_config(self, name: str, version: str = "") -> ModelConfig:
        """Return the normalised configuration of a model."""
        request = pb.ModelConfigRequest(name=name, version=version)
        return self._call("ModelConfig", request, pb.ModelConfigResponse).config

    def is_ready(self, model: str = "", version: str = "") -> bool:
        """Tell whether the server, or one model, is ready. An unknown model is not."""
        if not model:
            return self._call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
        request = pb.ModelReadyRequest(name=model, version=version)
        return self._call("ModelReady", request, pb.ModelReadyResponse).ready

    def index(self) -> list[pb.RepositoryIndexResponse.ModelIndex]:
        """Return every version that the server knows, with its state and why it failed."""
        request = pb.RepositoryIndexRequest()
        return list(self._call("RepositoryIndex", request, pb.RepositoryIndexResponse).models)

    def statistics(self, model: str = "", version: str = "") -> list[pb.ModelStatistics]:
        """Return counts and durations of every ready version, or of those of one model."""
        request = pb.ModelStatisticsRequest(name=model, version=version)
        return list(self._call("ModelStatistics", request, pb.ModelStatisticsResponse).model_stats)

    def health(self, service: str = "") -> str:
        """Return the status of the server ("") or a model: SERVING, NOT_SERVING."""
        answer = self._call(_HEALTH, HealthCheckRequest(service=service), HealthCheckResponse)
        return HealthCheckResponse.ServingStatus.Name(answer.status)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        *,
        outputs: Sequence[str] = (),
        version: str = "",
        deadline: float | None = None,
        priority: int = 0,
    ) -> Tensors:
        """Run one request and return its outputs by name.

        outputs: names of those wanted; (): all. deadline: seconds. priority: 1 is the highest,
        0 the model's default. Raises RequestRefused, ServerUnreachable, MalformedAnswer, and
        TypeError for an array that no datatype can carry.
        """
        request = self._request(model, version, inputs, outputs)
        if priority:
            request.parameters["priority"].int64_param = priority
        return read_outputs(self._call("ModelInfer", request, pb.ModelInferResponse, deadline))

    def stream(
        self,
        model: str,
        inputs: Iterable[Mapping[str, npt.ArrayLike]],
        *,
        outputs: Sequence[str] = (),
        version: str = "",
        deadline: float | None = None,
        window: int = 64,
    ) -> Generator[Answer, None, None]:
        """Send every element of inputs as a request of one stream; yield answers in order.

        At most `window` requests are unanswered or unread at a time, so inputs may be endless.
        inputs is iterated on another thread; what it raises is raised here after the answers to
        what it gave. deadline: seconds for the whole stream; None: none. A failed request is an
        Answer with an error and the stream goes on; closing the generator cancels what is left.
        Raises ClientError if the stream breaks.
        """
        requests = WindowedRequests(
            window, (self._request(model, version, each, outputs) for each in inputs)
        )
        method = self._channel.stream_stream(
            _SERVICE + "ModelStreamInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )
        call = method(iter(requests), timeout=deadline)
        answered = 0
        try:
            for message in call:
                yield read_answer(message, answered)
                answered += 1
                requests.settle()
        except grpc.RpcError as error:
            raise translated(self.address, error) from None
        finally:
            requests.stop()
            call.cancel()
        if requests.failure is not None:
            raise requests.failure
        if answered < requests.sent:
            raise MalformedAnswer(
                f"the server ended the stream after {answered} of {requests.sent} answers"
            )

    def _call(
        self, method: str, request: Message, kind: type[M], deadline: float | None = None
    ) -> M:
        call: grpc.UnaryUnaryMultiCallable[Message, M] = self._channel.unary_unary(
            method if method.startswith("/") else _SERVICE + method,
            request_serializer=type(request).SerializeToString,
            response_deserializer=kind.FromString,
        )
        try:
            answer: M = call(request, timeout=self._deadline if deadline is None else deadline)
        except grpc.RpcError as error:
            raise translated(self.address, error) from None
        return answer

    def _request(
        self,
        model: str,
        version: str,
        inputs: Mapping[str, npt.ArrayLike],
        outputs: Sequence[str],
    ) -> pb.ModelInferRequest:
        return build_request(
            model, version, inputs, outputs, lambda name: name in self._bf16_inputs(model, version)
        )

    def _bf16_inputs(self, model: str, version: str) -> frozenset[str]:
        known = self._bf16.get((model, version))
        if known is None:
            inputs = self.model_metadata(model, version).inputs
            known = frozenset(each.name for each in inputs if each.datatype == BF16.wire)
            self._bf16[model, version] = known
        return known
