"""The pages of the HTTP port: metrics, health, inference, and those of `rpcs`."""

import asyncio
from contextlib import suppress

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from service.pb.grpc_service_pb2 import (
    ModelMetadataRequest,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from service.rest.exchange import HttpRequest
from service.rest.reply import Reply, json_reply
from service.rest.routes import Handler, Page, Routes
from service.rest.rpcs import MODEL, RPCS, VERSION, Ask, Names, rpc_handler
from service.rest.status import HttpError
from service.rpc.methods import INFERENCE


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
    for base in (MODEL, VERSION):
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
            with suppress(HttpError):  # of a caller who may ask for health alone
                # Raises, unless it is the server that drains.
                await ask(f"/{INFERENCE}/ModelMetadata", about, request)
        answer = json_reply({"name": model, "ready": ready})
        return answer if ready else Reply(503, answer.body)

    return handle
