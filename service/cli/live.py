"""A running server, described by what it answers: index, metadata, configuration, statistics."""

from typing import Any

from service.cli.description import READY, Description
from service.client import Client, RequestRefused
from service.pb.grpc_service_pb2 import (
    ModelMetadataResponse,
    ModelStatistics,
    SchedulingStatistics,
)
from service.pb.model_config_pb2 import ModelInstanceGroup
from service.tensors import BY_WIRE, Signature, TensorSpec


def describe_server(client: Client, model: str = "") -> list[Description]:
    """Return every version that the server knows, or those of one model.

    Raises ClientError if the server does not answer.
    """
    return [
        _of_ready(client, entry.name, entry.version)
        if entry.state == READY
        else Description(entry.name, entry.version, entry.state, entry.reason)
        for entry in client.index()
        if model in ("", entry.name)
    ]


def _of_ready(client: Client, name: str, version: str) -> Description:
    try:
        metadata = client.model_metadata(name, version)
        config = client.model_config(name, version)
        statistics = client.statistics(name, version)
    except RequestRefused as error:  # swapped out since the index was read
        return Description(name, version, "UNAVAILABLE", str(error))
    rows = config.max_batch_size
    kinds = {ModelInstanceGroup.Kind.Name(group.kind)[5:] for group in config.instance_group}
    return Description(
        name,
        version,
        READY,
        signature=_signature(metadata, batched=rows > 0),
        max_batch_size=rows,
        batching=f"up to {rows} rows" if rows else "no",
        provider=", ".join(sorted(kinds)),
        config=config,
        statistics=_statistics(statistics[0]) if statistics else {},
    )


def _signature(metadata: ModelMetadataResponse, *, batched: bool) -> Signature:
    inputs, outputs = (
        tuple(
            TensorSpec(tensor.name, BY_WIRE[tensor.datatype], tuple(tensor.shape))
            for tensor in tensors
        )
        for tensors in (metadata.inputs, metadata.outputs)
    )
    return Signature(inputs, outputs, batched)


def _statistics(statistics: ModelStatistics) -> dict[str, Any]:
    """Return means of a version over requests, rows over executions, and how it is scheduled."""
    sums = statistics.inference_stats
    compute_ns = sums.compute_input.ns + sums.compute_infer.ns + sums.compute_output.ns
    described: dict[str, Any] = {
        "requests": sums.success.count,
        "failed": sums.fail.count,
        "rows": statistics.inference_count,
        "executions": statistics.execution_count,
        "mean_batch_rows": statistics.inference_count / max(1, statistics.execution_count),
        "mean_queue_us": sums.queue.ns / max(1, sums.queue.count) / 1e3,
        "mean_compute_us": compute_ns / max(1, sums.success.count) / 1e3,
        "batches": [
            {
                "rows": batch.batch_size,
                "executions": batch.compute_infer.count,
                "mean_us": batch.compute_infer.ns / max(1, batch.compute_infer.count) / 1e3,
            }
            for batch in statistics.batch_stats
        ],
    }
    if statistics.HasField("scheduling"):  # a server of others has none
        described["scheduling"] = _scheduling(statistics.scheduling)
    return described


def _scheduling(scheduling: SchedulingStatistics) -> dict[str, Any]:
    return {
        "mean_run_us": scheduling.mean_run_ns / 1e3,
        "queue_depth": scheduling.queue_depth,
        "batches_in_progress": scheduling.batches_in_progress,
        "run_costs": [
            {
                "max_rows": cost.max_rows,
                "runs": cost.runs,
                "mean_us": cost.mean_ns / 1e3,
                "inline": cost.inline,
            }
            for cost in scheduling.run_costs
        ],
    }
