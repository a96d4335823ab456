"""The RPCs that tell of the server and its models: live, ready, metadata, config, statistics."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from service import __version__
from service.errors import InvalidRequest, ModelNotReady, UnknownModel, shown
from service.inference.model import Model
from service.lifecycle.manager import Manager
from service.lifecycle.states import parse_version_text
from service.observability.stats import ResponseTotals, Totals
from service.pb.grpc_service_pb2 import (
    InferBatchStatistics,
    InferResponseStatistics,
    InferStatistics,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatistics,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    SchedulingStatistics,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
    StatisticDuration,
)
from service.rpc.messages import parse
from service.rpc.methods import Answer
from service.tensors import TensorSpec
from service.transport.seam import Code

EXTENSIONS: Final = (
    "classification",
    "sequence",
    "sequence(string_id)",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "schedule_policy",
    "statistics",
    "model_repository",
    "model_repository(unload_dependents)",
    "trace",
    "logging",
)


class ServerInfo:
    """Every method takes a serialised request and returns a serialised response."""

    def __init__(
        self,
        manager: Manager[Model],
        name: str,
        is_draining: Callable[[], bool],
        extensions: Sequence[str] = (),
    ) -> None:
        """extensions: names of those that are served besides the usual ones."""
        self._manager = manager
        self._name = name
        self._is_draining = is_draining
        self._extensions = (*EXTENSIONS, *extensions)

    @property
    def answers(self) -> Mapping[str, Answer]:
        """Return what answers each RPC; see methods.Service."""
        return {
            "ServerLive": self.live,
            "ServerReady": self.ready,
            "ServerMetadata": self.metadata,
            "ModelReady": self.model_ready,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.statistics,
        }

    def live(self, message: bytes) -> bytes:
        """Answer ServerLive: what answers at all is live."""
        parse(ServerLiveRequest, message)
        return ServerLiveResponse(live=True).SerializeToString()

    def ready(self, message: bytes) -> bytes:
        """Answer ServerReady."""
        parse(ServerReadyRequest, message)
        ready = self._manager.is_ready() and not self._is_draining()
        return ServerReadyResponse(ready=ready).SerializeToString()

    def metadata(self, message: bytes) -> bytes:
        """Answer ServerMetadata."""
        parse(ServerMetadataRequest, message)
        return ServerMetadataResponse(
            name=self._name, version=__version__, extensions=self._extensions
        ).SerializeToString()

    def model_ready(self, message: bytes) -> bytes:
        """Answer ModelReady: an unknown model is not ready, and that is no error."""
        request = parse(ModelReadyRequest, message)
        try:
            self._manager.find(request.name, request.version)
            ready = not self._is_draining()
        except (UnknownModel, ModelNotReady):
            ready = False
        return ModelReadyResponse(ready=ready).SerializeToString()

    def model_metadata(self, message: bytes) -> bytes:
        """Answer ModelMetadata. Raises UnknownModel or ModelNotReady."""
        request = parse(ModelMetadataRequest, message)
        model = self._manager.find(request.name, request.version)
        versions = [model.version]
        if not request.version:
            versions = [str(version) for version in self._manager.ready_versions(request.name)]
        return ModelMetadataResponse(
            name=model.name,
            versions=versions,
            platform=model.config.platform or model.config.backend,
            inputs=[_tensor_metadata(spec) for spec in model.signature.inputs],
            outputs=[_tensor_metadata(spec) for spec in model.signature.outputs],
        ).SerializeToString()

    def model_config(self, message: bytes) -> bytes:
        """Answer ModelConfig. Raises UnknownModel or ModelNotReady."""
        request = parse(ModelConfigRequest, message)
        model = self._manager.find(request.name, request.version)
        return ModelConfigResponse(config=model.config).SerializeToString()

    def statistics(self, message: bytes) -> bytes:
        """Answer ModelStatistics. Raises InvalidRequest for an unknown model, as Triton does."""
        request = parse(ModelStatisticsRequest, message)
        models = self._manager.servables()
        if request.name:
            models = [model for model in models if model.name == request.name]
            if not models:
                raise InvalidRequest(f"requested model '{shown(request.name)}' is not available")
            number = parse_version_text(request.version)
            if number is not None:
                models = [model for model in models if model.version == str(number)]
            if not models:
                raise InvalidRequest(
                    f"requested model version is not available for model '{request.name}'"
                )
        return ModelStatisticsResponse(
            model_stats=[_statistics(model) for model in models]
        ).SerializeToString()


def _tensor_metadata(spec: TensorSpec) -> ModelMetadataResponse.TensorMetadata:
    return ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype.wire, shape=spec.shape
    )


def _statistics(model: Model) -> ModelStatistics:
    totals = model.scheduler.stats.snapshot()
    return ModelStatistics(
        name=model.name,
        version=model.version,
        last_inference=totals.last_inference_ms,
        inference_count=totals.rows,
        execution_count=totals.batch_rows.count,
        inference_stats=_inference_statistics(totals),
        batch_stats=[
            InferBatchStatistics(
                batch_size=rows,
                compute_input=StatisticDuration(count=batch.executions, ns=batch.input_ns),
                compute_infer=StatisticDuration(count=batch.executions, ns=batch.infer_ns),
                compute_output=StatisticDuration(count=batch.executions, ns=batch.output_ns),
            )
            for rows, batch in sorted(totals.batches.items())
        ],
        scheduling=_scheduling(model),
        response_stats={
            str(index): _response_statistics(responses)
            for index, responses in totals.responses.items()
        },
    )


def _response_statistics(totals: ResponseTotals) -> InferResponseStatistics:
    count = totals.count
    return InferResponseStatistics(
        compute_infer=StatisticDuration(count=count, ns=totals.infer_ns),
        compute_output=StatisticDuration(count=count, ns=totals.output_ns),
        success=StatisticDuration(count=count, ns=totals.infer_ns + totals.output_ns),
        fail=StatisticDuration(count=totals.failed, ns=totals.failed_ns),
        empty_response=StatisticDuration(count=totals.empty, ns=totals.empty_ns),
        cancel=StatisticDuration(count=totals.cancelled, ns=totals.cancelled_ns),
    )


def _scheduling(model: Model) -> SchedulingStatistics:
    scheduler = model.scheduler
    return SchedulingStatistics(
        mean_run_ns=int(scheduler.mean_run_s * 1e9),
        queue_depth=scheduler.queue_depth,
        batches_in_progress=scheduler.batches_in_progress,
        run_costs=[
            SchedulingStatistics.RunCost(
                max_rows=cost.max_rows,
                runs=cost.runs,
                mean_ns=int(cost.mean_s * 1e9),
                inline=cost.inline,
            )
            for cost in scheduler.run_costs()
        ],
    )


def _inference_statistics(totals: Totals) -> InferStatistics:
    count = totals.queue_ns.count
    # How long those waited who left is not kept.
    failed = totals.failed + totals.outcomes[Code.CANCELLED.name]
    return InferStatistics(
        success=StatisticDuration(count=count, ns=totals.total_ns.total),
        fail=StatisticDuration(count=failed, ns=totals.failed_ns),
        queue=StatisticDuration(count=count, ns=totals.queue_ns.total),
        compute_input=StatisticDuration(count=count, ns=totals.input_ns),
        compute_infer=StatisticDuration(count=count, ns=totals.infer_ns),
        compute_output=StatisticDuration(count=count, ns=totals.output_ns),
        cache_hit=StatisticDuration(),
        cache_miss=StatisticDuration(),
    )
