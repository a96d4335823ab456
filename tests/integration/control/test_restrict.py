"""Restricted RPCs: every method by its own category, on every way into the server."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from service.rpc.methods import CATEGORIES, CATEGORY_OF, STREAM_INFER
from tests.integration.conftest import TRANSPORTS
from tests.support import models, servers
from tests.support.requests import simple_request
from tests.support.rest import ask
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, stream, unary

PREFIX = "triton-grpc-protocol-"
STREAMS = (STREAM_INFER, "/grpc.health.v1.Health/Watch")


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[RunningServer]:
    """Serve with each category behind a header of its own, the secrets in files."""
    root = tmp_path_factory.mktemp("restricted")
    models.publish(root / "models", "simple", models.simple(), config=models.SIMPLE_CONFIG)
    flags = ["--transport", request.param, "--model-control", "explicit", "--load-model", "*"]
    for category in CATEGORIES:
        secret = root / category
        secret.write_text(f"secret-of-{category}\n")
        flags += ["--restrict", f"{category}:{category}=@{secret}"]
    with servers.serve(root / "models", *flags) as running:
        yield running
        told = running.log.read_text() + running.get("/metrics")[1]
        assert "secret-of" not in told
        assert "secret-of" not in Path(f"/proc/{running.process.pid}/cmdline").read_text()


def header(category: str, value: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return the header of a category."""
    return ((PREFIX + category, f"secret-of-{category}" if value is None else value),)


def call(
    server: RunningServer, method: str, metadata: tuple[tuple[str, str], ...], message: bytes = b""
) -> tuple[grpc.StatusCode, str]:
    """Call a method and return how it ends; a stream that is open after its answer is cancelled."""
    with server.stub() as stub:
        try:
            if method in STREAMS:
                replies = stream(stub.channel, method)(
                    iter([message]), metadata=metadata, timeout=WAIT_S
                )
                next(iter(replies))
                replies.cancel()
            else:
                unary(stub.channel, method)(message, metadata=metadata, timeout=WAIT_S)
        except grpc.RpcError as error:
            return error.code(), error.details() or ""
        return grpc.StatusCode.OK, ""


@pytest.mark.parametrize("method", sorted(CATEGORY_OF))
def test_every_method_needs_the_header_of_its_category(server: RunningServer, method: str) -> None:
    """Without it, with a wrong value or another's header a method is UNAVAILABLE; else it answers.

    Nothing of the message is looked at before.
    """
    category = CATEGORY_OF[method]
    refused = (
        grpc.StatusCode.UNAVAILABLE,
        f"This protocol is restricted, expecting header '{PREFIX}{category}'",
    )
    other = next(name for name in CATEGORIES if name != category)
    for metadata in ((), header(category, "wrong"), header(other), header(category) * 2):
        assert call(server, method, metadata, b"\xff") == refused
    assert call(server, method, header(category), b"\xff") != refused


def test_reflection_belongs_to_no_category(server: RunningServer) -> None:
    """The schema is no secret."""
    method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    with server.stub() as stub:
        replies = stream(stub.channel, method)(iter([b"\x3a\x01*"]), timeout=WAIT_S)
        assert b"inference.GRPCInferenceService" in next(iter(replies))


def test_what_the_lane_knows_is_restricted_too(server: RunningServer) -> None:
    """Requests of a form that was answered before are refused without the header, each of them.

    Those with it, side by side with the others on one connection, are answered.
    """
    request = simple_request(request_id="7")
    good, bad = header("inference"), header("inference", "wrong")
    with server.stub() as stub, ThreadPoolExecutor(16) as pool:

        def infer(metadata: tuple[tuple[str, str], ...]) -> str:
            try:
                stub.infer(request, metadata=metadata, timeout=WAIT_S)
            except grpc.RpcError as error:
                return str(error.code().name)
            return "OK"

        assert set(pool.map(infer, [good] * 100)) == {"OK"}
        before = server.sample("penstock_rows_total", model="simple", version="1")
        answers = list(pool.map(infer, [good, bad, ()] * 100))
        assert answers == ["OK", "UNAVAILABLE", "UNAVAILABLE"] * 100
        after = server.sample("penstock_rows_total", model="simple", version="1")
        assert after - before == 100
        replies = stub.stream(iter([request] * 50), metadata=good, timeout=WAIT_S)
        assert len(list(replies)) == 50
        replies = stub.stream(iter([request] * 50), metadata=bad, timeout=WAIT_S)
        with pytest.raises(grpc.RpcError, match="This protocol is restricted"):
            list(replies)


@pytest.mark.parametrize(
    ("method", "path", "category"),
    [
        ("GET", "/v2/health/ready", "health"),
        ("GET", "/v2/models/simple/ready", "health"),
        ("GET", "/v2", "metadata"),
        ("GET", "/v2/models/simple", "metadata"),
        ("GET", "/v2/models/simple/config", "model-config"),
        ("GET", "/v2/models/stats", "statistics"),
        ("POST", "/v2/repository/index", "model-repository"),
        ("POST", "/v2/models/simple/infer", "inference"),
    ],
)
def test_http_asks_for_the_same_headers(
    server: RunningServer, method: str, path: str, category: str
) -> None:
    """What is restricted over gRPC is so over HTTP; an inference is not even read before."""
    body = "{" if path.endswith("infer") else None
    refused = (403, f"This protocol is restricted, expecting header '{PREFIX}{category}'")
    for metadata in ((), header(category, "wrong")):
        assert ask(server.http_address, method, path, body, dict(metadata)).error() == refused
    answer = ask(server.http_address, method, path, body, dict(header(category)))
    assert answer.status == (400 if body else 200)


def test_health_over_http_needs_the_header_of_health_alone(server: RunningServer) -> None:
    """A model that is not ready is told as that, if not why, to a caller who may ask no more."""
    headers = dict(header("health"))
    answer = ask(server.http_address, "GET", "/v2/models/absent/ready", headers=headers)
    assert (answer.status, answer.json()) == (503, {"name": "absent", "ready": False})
    headers |= dict(header("metadata"))
    answer = ask(server.http_address, "GET", "/v2/models/absent/ready", headers=headers)
    assert answer.error() == (404, "Request for unknown model: 'absent' is not found")


def test_restrictions_that_cannot_be_meant(tmp_path: Path) -> None:
    """A group that is none ends the start with what was expected, and tells no secret."""
    models.publish(tmp_path, "simple", models.simple())
    for group in ("tracing:key=secret", "trace:key=@/absent", "trace:key=$ABSENT"):
        ended = servers.run_serve(str(tmp_path), "--port", "0", "--restrict", group)
        assert ended.returncode == 2
        assert "--restrict" in ended.stderr
        assert "secret" not in ended.stderr
