"""A server a transport whose models callers load and unload, and what they ask of it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import (
    ModelReadyRequest,
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
    ServerReadyRequest,
)
from service.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from service.tensors import FP32
from tests.integration.conftest import TRANSPORTS, Serve
from tests.support import models, servers
from tests.support.requests import answer, one, raw_request
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Stub, refusal, unary


@dataclass(slots=True)
class Controlled:
    """A server with explicit model control. root: its repository."""

    server: RunningServer
    stub: Stub
    root: Path

    def publish(self, value: float, version: int = 1, name: str = "plus") -> None:
        """Put a model into the repository that gives this value."""
        models.publish(self.root, name, models.add_constant(value), version=version)

    def load(
        self, name: str = "plus", config: object = None, files: Mapping[str, bytes] | None = None
    ) -> None:
        """Load a model; see load_request."""
        self.stub.load(load_request(name, config, files), timeout=WAIT_S)

    def refused(
        self, name: str = "plus", config: object = None, files: Mapping[str, bytes] | None = None
    ) -> tuple[grpc.StatusCode, str]:
        """Return how a load ends that is refused."""
        return refusal(self.stub.load, load_request(name, config, files or {}))

    def unload(self, name: str = "plus") -> None:
        """Unload a model."""
        self.stub.unload(RepositoryModelUnloadRequest(model_name=name), timeout=WAIT_S)

    def value(self, version: str = "", name: str = "plus") -> tuple[str, float]:
        """Return which version answers, and with what."""
        request = raw_request(name, one(FP32, np.zeros((1, 1), np.float32)), version=version)
        response = self.stub.infer(request, timeout=WAIT_S)
        return response.model_version, float(answer(response)[0, 0])

    def infer_refused(self, version: str = "", name: str = "plus") -> tuple[grpc.StatusCode, str]:
        """Return how a request ends that is refused."""
        request = raw_request(name, one(FP32, np.zeros((1, 1), np.float32)), version=version)
        return refusal(self.stub.infer, request)

    def index(self, *, ready: bool = False) -> list[tuple[str, str, str, str]]:
        """Return name, version, state and reason of every entry of the index."""
        response = self.stub.index(RepositoryIndexRequest(ready=ready), timeout=WAIT_S)
        return [(m.name, m.version, m.state, m.reason) for m in response.models]

    def is_model_ready(self, version: str = "", name: str = "plus") -> bool:
        """Ask ModelReady."""
        request = ModelReadyRequest(name=name, version=version)
        return bool(self.stub.model_ready(request, timeout=WAIT_S).ready)

    def health(self, name: str = "plus") -> str | None:
        """Ask grpc.health.v1 for a model; None if it does not know it."""
        check = unary(self.stub.channel, "/grpc.health.v1.Health/Check")
        try:
            reply = check(HealthCheckRequest(service=name).SerializeToString(), timeout=WAIT_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return None
        status = HealthCheckResponse.FromString(reply).status
        return str(HealthCheckResponse.ServingStatus.Name(status))

    def is_ready(self) -> bool:
        """Ask ServerReady."""
        return bool(self.stub.ready(ServerReadyRequest(), timeout=WAIT_S).ready)


def load_request(
    name: str, config: object = None, files: Mapping[str, bytes] | None = None
) -> RepositoryModelLoadRequest:
    """Return a request to load a model. config: of JSON, or its text."""
    request = RepositoryModelLoadRequest(model_name=name)
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        request.parameters["config"].string_param = text
    for path, contents in (files or {}).items():
        request.parameters[f"file:{path}"].bytes_param = contents
    return request


@pytest.fixture
def controlled(tmp_path: Path, serve: Serve) -> Iterator[Controlled]:
    """Serve an empty repository with explicit model control."""
    root = tmp_path / "models"
    root.mkdir()
    with serve(root, "--model-control", "explicit") as server, server.stub() as stub:
        yield Controlled(server, stub, root)


@pytest.fixture(scope="module", params=TRANSPORTS)
def refusing(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Controlled]:
    """Serve one model for tests that change nothing; it must serve at the end as at the start."""
    root = tmp_path_factory.mktemp("models")
    flags = ("--model-control", "explicit", "--transport", request.param)
    with servers.serve(root, *flags) as server, server.stub() as stub:
        controlled = Controlled(server, stub, root)
        controlled.publish(1)
        controlled.load()
        yield controlled
        assert controlled.value() == ("1", 1.0)
        assert controlled.index() == [("plus", "1", "READY", "")]
