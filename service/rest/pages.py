"""Every page of the HTTP port: metrics, and for each path of the protocol the RPC behind it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service.pb.grpc_service_pb2 import (
    ModelConfigRequest,
    ModelConfigResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from service.rest.exchange import HttpRequest
from service.rest.parse import member, parse_object
from service.rest.plain import plain
from service.rest.reply import Reply, json_reply
from service.rest.routes import Handler, Page, Routes
from service.rpc.methods import INFERENCE

Names = Mapping[str, str]
Ask = Callable[[str, bytes, HttpRequest], Awaitable[bytes]]  # see call.Asker
_MODEL: Final = "v2/models/{model}"
_VERSION: Final = "v2/models/{model}/versions/{version}"


@dataclass(frozen=True, slots=True)
class Rpc:
    """A page that is an RPC. method: HTTP's. request: from the path and the body's members."""

    method: str
    paths: tuple[str, ...]
    name: str
    request: Callable[[Names, dict[str, Any]], Message]
    reply: Callable[[bytes], Reply]


def rpc_handler(rpc: Rpc, ask: Ask) -> Handler:
    """Return the handler of an RPC's page."""
    method = f"/{INFERENCE}/{rpc.name}"

    async def handle(request: HttpRequest, names: Names) -> Reply:
        fields = parse_object(request.body) if request.body else {}
        message = rpc.request(names, fields).SerializeToString()
        return rpc.reply(await ask(method, message, request))

    return handle


def metrics_handler(registry: CollectorRegistry) -> Handler:
    """Return the handler of /metrics."""

    async def handle(request: HttpRequest, _names: Names) -> Reply:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        loop = asyncio.get_running_loop()
        return Reply(200, await loop.run_in_executor(None, encode, registry), content_type)

    return handle


def add_probes(routes: Routes, ask: Ask, registry: CollectorRegistry) -> None:
    """Add what tells of the server's state: metrics, live, ready."""
    routes.add("GET", "metrics", Page(metrics_handler(registry), is_open=True))
    routes.add("GET", "v2/health/live", Page(_live, is_open=True))
    routes.add("GET", "v2/health/ready", Page(_ready_handler(ask), is_open=True))


def add_protocol(routes: Routes, ask: Ask, infer: Handler) -> None:
    """Add the rest of the protocol."""
    for base in (_MODEL, _VERSION):
        routes.add("POST", f"{base}/infer", Page(infer))
        routes.add("GET", f"{base}/ready", Page(_model_ready_handler(ask)))
    for rpc in RPCS:
        for path in rpc.paths:
            routes.add(rpc.method, path, Page(rpc_handler(rpc, ask)))


async def _live(_request: HttpRequest, _names: Names) -> Reply:
    return json_reply({"live": True})


def _ready_handler(ask: Ask) -> Handler:
    message = ServerReadyRequest().SerializeToString()

    async def handle(request: HttpRequest, _names: Names) -> Reply:
        reply = await ask(f"/{INFERENCE}/ServerReady", message, request)
        ready = ServerReadyResponse.FromString(reply).ready
        answer = json_reply({"ready": ready})
        return answer if ready else Reply(503, answer.body)

    return handle


def _model_ready_handler(ask: Ask) -> Handler:
    """Unlike the RPC the page says why a model is not ready: with the status, and the error."""

    async def handle(request: HttpRequest, names: Names) -> Reply:
        model, version = names["model"], names.get("version", "")
        message = ModelReadyRequest(name=model, version=version).SerializeToString()
        reply = await ask(f"/{INFERENCE}/ModelReady", message, request)
        ready = ModelReadyResponse.FromString(reply).ready
        if not ready:
            about = ModelMetadataRequest(name=model, version=version).SerializeToString()
            # Raises, unless it is the server that drains.
            await ask(f"/{INFERENCE}/ModelMetadata", about, request)
        answer = json_reply({"name": model, "ready": ready})
        return answer if ready else Reply(503, answer.body)

    return handle


def _server_metadata(reply: bytes) -> Reply:
    return json_reply(plain(ServerMetadataResponse.FromString(reply), whole=True))


def _model_metadata(reply: bytes) -> Reply:
    metadata = plain(ModelMetadataResponse.FromString(reply), whole=True)
    if not metadata["properties"]:
        del metadata["properties"]  # Open Inference Protocol has them, Triton's clients do not
    return json_reply(metadata)


def _model_config(reply: bytes) -> Reply:
    return json_reply(plain(ModelConfigResponse.FromString(reply).config, whole=True))


def _statistics(reply: bytes) -> Reply:
    return json_reply(plain(ModelStatisticsResponse.FromString(reply), whole=True))


def _index(reply: bytes) -> Reply:
    return json_reply([plain(model) for model in RepositoryIndexResponse.FromString(reply).models])


def _index_request(_names: Names, fields: dict[str, Any]) -> Message:
    return RepositoryIndexRequest(
        repository_name=member(fields, "repository_name", str, "the request", ""),
        ready=member(fields, "ready", bool, "the request", default=False),
    )


RPCS: Final = (
    Rpc(
        "GET", ("v2",), "ServerMetadata",
        lambda _names, _fields: ServerMetadataRequest(), _server_metadata,
    ),
    Rpc(
        "GET", (_MODEL, _VERSION), "ModelMetadata",
        lambda names, _fields: ModelMetadataRequest(
            name=names["model"], version=names.get("version", "")
        ),
        _model_metadata,
    ),
    Rpc(
        "GET", (f"{_MODEL}/config", f"{_VERSION}/config"), "ModelConfig",
        lambda names, _fields: ModelConfigRequest(
            name=names["model"], version=names.get("version", "")
        ),
        _model_config,
    ),
    Rpc(
        "GET", ("v2/models/stats", f"{_MODEL}/stats", f"{_VERSION}/stats"), "ModelStatistics",
        lambda names, _fields: ModelStatisticsRequest(
            name=names.get("model", ""), version=names.get("version", "")
        ),
        _statistics,
    ),
    Rpc("POST", ("v2/repository/index",), "RepositoryIndex", _index_request, _index),
)  # fmt: skip
