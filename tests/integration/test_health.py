"""grpc.health.v1 as its own client sees it, server information, and reflection."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from service import __version__
from service.pb import reflection_v1_pb2, reflection_v1alpha_pb2
from service.pb.grpc_service_pb2 import (
    ModelConfigRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    ModelStatisticsRequest,
    ServerLiveRequest,
    ServerMetadataRequest,
    ServerReadyRequest,
)
from service.pb.health_pb2 import HealthListRequest, HealthListResponse
from tests.support import models
from tests.support.requests import simple_request
from tests.support.servers import serve
from tests.support.stub import WAIT_S, Stub, refusal

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
REFLECTION = {"v1": reflection_v1_pb2, "v1alpha": reflection_v1alpha_pb2}


def check(stub: Stub, name: str) -> Any:
    """Ask for the status of a name."""
    request = health_pb2.HealthCheckRequest(service=name)
    return health_pb2_grpc.HealthStub(stub.channel).Check(request, timeout=WAIT_S).status


@pytest.mark.parametrize("name", ["", "inference.GRPCInferenceService", "simple", "liveness"])
def test_known_names_are_serving(stub: Stub, name: str) -> None:
    """The server, its service, each model and liveness are SERVING."""
    assert check(stub, name) == SERVING


def test_unknown_name_is_not_found(stub: Stub) -> None:
    """Check of a name that is not known is NOT_FOUND, as the protocol has it."""
    code, text = refusal(lambda **_: check(stub, "nope"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "unknown service 'nope'" in text


def test_watch_of_an_unknown_name_waits_for_it(stub: Stub) -> None:
    """Watch of a name that is not known says SERVICE_UNKNOWN and stays open."""
    watch = health_pb2_grpc.HealthStub(stub.channel).Watch(
        health_pb2.HealthCheckRequest(service="nope"), timeout=WAIT_S
    )
    assert next(watch).status == SERVICE_UNKNOWN
    assert watch.is_active()
    watch.cancel()


def test_list_names_every_model(stub: Stub) -> None:
    """List has the server and every model with its status."""
    method = stub.channel.unary_unary(
        "/grpc.health.v1.Health/List",
        HealthListRequest.SerializeToString,
        HealthListResponse.FromString,
    )
    statuses = method(HealthListRequest(), timeout=WAIT_S).statuses
    assert {"", "simple", "mlp", "slow"} <= set(statuses)
    assert {entry.status for entry in statuses.values()} == {SERVING}


def test_server_tells_of_itself(stub: Stub) -> None:
    """It is live and ready, and has a name, a version and what it implements."""
    assert stub.live(ServerLiveRequest(), timeout=WAIT_S).live
    assert stub.ready(ServerReadyRequest(), timeout=WAIT_S).ready
    metadata = stub.metadata(ServerMetadataRequest(), timeout=WAIT_S)
    assert (metadata.name, metadata.version) == ("penstock", __version__)
    assert {"statistics", "model_configuration", "binary_tensor_data"} <= set(metadata.extensions)


def test_name_of_the_server_is_a_setting(tmp_path: Path) -> None:
    """Clients that insist on 'triton' can have it."""
    models.publish(tmp_path, "simple", models.simple())
    with serve(tmp_path, "--server-name", "triton") as server, server.stub() as stub:
        assert stub.metadata(ServerMetadataRequest(), timeout=WAIT_S).name == "triton"


def test_model_tells_of_itself(stub: Stub) -> None:
    """ModelMetadata has versions, platform and the tensors with the batch dimension as -1."""
    metadata = stub.model_metadata(ModelMetadataRequest(name="simple"), timeout=WAIT_S)
    assert list(metadata.versions) == ["1"]
    assert metadata.platform == "onnxruntime_onnx"
    described = [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs]
    assert described == [("INPUT0", "INT32", [-1, 16]), ("INPUT1", "INT32", [-1, 16])]
    assert [(t.name, t.datatype) for t in metadata.outputs] == [
        ("OUTPUT0", "INT32"),
        ("OUTPUT1", "INT32"),
    ]


def test_configuration_is_complete(stub: Stub) -> None:
    """ModelConfig is filled in as clients such as perf_analyzer expect it."""
    config = stub.model_config(ModelConfigRequest(name="simple"), timeout=WAIT_S).config
    assert config.max_batch_size == 8
    assert [list(entry.dims) for entry in config.input] == [[16], [16]]
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.version_policy.latest.num_versions == 1
    (group,) = config.instance_group
    assert group.kind in (group.KIND_CPU, group.KIND_GPU)
    assert group.count >= 1
    bare = stub.model_config(ModelConfigRequest(name="scalar"), timeout=WAIT_S).config
    assert bare.max_batch_size == 0
    assert bare.WhichOneof("scheduling_choice") is None
    assert [entry.name for entry in bare.input] == ["X"]


def test_unknown_model_is_not_ready(stub: Stub) -> None:
    """ModelReady of what is not known is no error; metadata and configuration of it are."""
    assert not stub.model_ready(ModelReadyRequest(name="nope"), timeout=WAIT_S).ready
    missing = ModelReadyRequest(name="simple", version="9")
    assert not stub.model_ready(missing, timeout=WAIT_S).ready
    for call, request in (
        (stub.model_metadata, ModelMetadataRequest(name="nope")),
        (stub.model_config, ModelConfigRequest(name="nope")),
    ):
        code, text = refusal(call, request)
        assert code is grpc.StatusCode.NOT_FOUND
        assert text == "Request for unknown model: 'nope' is not found"


def test_statistics_count_requests_and_executions(stub: Stub) -> None:
    """Counts grow by what was sent; every duration is counted once a request."""
    before = stub.stats_of("simple")
    for rows in (1, 2, 3):
        stub.infer(simple_request(rows=rows), timeout=WAIT_S)
    after = stub.stats_of("simple")
    assert after.inference_count - before.inference_count == 6
    assert after.execution_count - before.execution_count == 3
    stats, had = after.inference_stats, before.inference_stats
    assert stats.success.count - had.success.count == 3
    assert stats.queue.count - had.queue.count == 3
    assert stats.compute_infer.count - had.compute_infer.count == 3
    assert stats.success.ns > had.success.ns
    assert after.last_inference >= before.last_inference
    assert sum(b.compute_infer.count for b in after.batch_stats) == after.execution_count


def test_statistics_of_all_and_of_none(stub: Stub) -> None:
    """Without a name every model is told; a name that is not served is an error."""
    every = stub.statistics(ModelStatisticsRequest(), timeout=WAIT_S).model_stats
    assert {"simple", "mlp"} <= {entry.name for entry in every}
    code, text = refusal(stub.statistics, ModelStatisticsRequest(name="nope"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "requested model 'nope' is not available"


@pytest.mark.parametrize("version", REFLECTION)
def test_reflection_gives_the_schema(stub: Stub, version: str) -> None:
    """Services are listed, and a symbol's file comes with all that it imports."""
    messages = REFLECTION[version]
    ask = reflect(stub, version)
    (listed,) = ask(messages.ServerReflectionRequest(list_services="*"))
    services = {service.name for service in listed.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= services
    symbol = "inference.GRPCInferenceService"
    (found,) = ask(messages.ServerReflectionRequest(file_containing_symbol=symbol))
    files = {}
    for data in found.file_descriptor_response.file_descriptor_proto:
        file = FileDescriptorProto.FromString(data)
        files[file.name] = file
    for file in files.values():
        assert set(file.dependency) <= set(files)
    names = {s.name for file in files.values() for s in file.service}
    assert "GRPCInferenceService" in names
    (by_name,) = ask(messages.ServerReflectionRequest(file_by_filename=next(iter(files))))
    assert by_name.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize(
    "symbol",
    [
        "inference.GRPCInferenceService.ModelInfer",
        "inference.ModelInferRequest.InferInputTensor",
        "inference.ModelInferRequest.id",
        "inference.InferParameter.parameter_choice",
        "inference.DataType",
        "inference.TYPE_FP32",
    ],
)
def test_reflection_finds_symbols_of_every_kind(stub: Stub, symbol: str) -> None:
    """A method has a file as well as a service, a message, a field, a oneof and an enum have."""
    request = reflection_v1_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    (found,) = reflect(stub, "v1")(request)
    assert found.file_descriptor_response.file_descriptor_proto, found.error_response


@pytest.mark.parametrize("version", REFLECTION)
def test_reflection_of_what_is_not_there(stub: Stub, version: str) -> None:
    """Unknown symbols and files are an error inside the stream, which goes on."""
    messages = REFLECTION[version]
    unknown = [
        messages.ServerReflectionRequest(file_containing_symbol="no.Such"),
        messages.ServerReflectionRequest(
            file_containing_symbol="inference.GRPCInferenceService.NoSuch"
        ),
        messages.ServerReflectionRequest(file_by_filename="no.proto"),
        messages.ServerReflectionRequest(all_extension_numbers_of_type="no.Such"),
        messages.ServerReflectionRequest(list_services=""),
    ]
    *errors, listed = reflect(stub, version)(*unknown)
    assert [error.error_response.error_code for error in errors] == [5] * 4
    assert listed.list_services_response.service


def test_reflection_can_be_turned_off(tmp_path: Path) -> None:
    """With --no-reflection the schema is not told."""
    models.publish(tmp_path, "simple", models.simple())
    with serve(tmp_path, "--no-reflection") as server, server.stub() as stub:
        request = reflection_v1_pb2.ServerReflectionRequest(list_services="*")
        code, _ = refusal(lambda **_: list(reflect(stub, "v1")(request)))
        assert code is grpc.StatusCode.UNIMPLEMENTED


def reflect(stub: Stub, version: str) -> Any:
    """Return a function from questions to answers of one reflection stream."""
    messages: Any = REFLECTION[version]
    method = stub.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        messages.ServerReflectionRequest.SerializeToString,
        messages.ServerReflectionResponse.FromString,
    )
    return lambda *questions: list(method(iter(questions), timeout=WAIT_S))
