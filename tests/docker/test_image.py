"""The container image, built and run by a real engine: any user, read-only root, no torch.

It needs a `docker` that answers; in CI there must be one, elsewhere these tests are skipped.
The containers use the host's network on loopback, or none.
"""

import gzip
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import grpc
import numpy as np
import pytest

from service.pb import health_pb2
from service.tensors import FP32, INT64
from tests.support import models, requests
from tests.support.stub import Stub

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGE = "penstock-under-test"
MAX_BYTES = 245_000_000
MAX_COMPRESSED_BYTES = 90_000_000
_READY_PREFIX = "penstock ready grpc="
_CALL_S = 20.0
_LOCKED_DOWN = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def docker(*arguments: str | Path) -> str:
    """Run docker and return what it prints."""
    run = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout.strip()


@pytest.fixture(scope="session")
def image() -> str:
    """Build the image as the README says and return its name."""
    try:
        subprocess.run(["docker", "info"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        _no_engine()
    docker("build", "--network", "host", "--tag", IMAGE, ROOT)
    return IMAGE


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a repository that any user may read."""
    root = tmp_path_factory.mktemp("models")
    models.publish(root, "plus_two", models.add_constant(2.0))
    models.publish(root, "slow", models.slow(512))
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return root


@contextmanager
def running(image: str, *arguments: str | Path, command: tuple[str, ...] = ()) -> Iterator[str]:
    """Run the image in the background, yield the container's id and remove it at the end."""
    container = docker("run", "--detach", *_LOCKED_DOWN, *arguments, image, *command)
    try:
        yield container
    finally:
        docker("rm", "--force", container)


@contextmanager
def serving(
    image: str,
    mount: str,
    *options: str,
    user: str = "12345:0",
) -> Iterator[tuple[str, grpc.Channel]]:
    """Serve a mounted folder on a free port of loopback; yield the container and a channel."""
    target = mount.split(":")[1]
    command = ("serve", target, "--port", "0", "--http-port", "0", *options)
    arguments = ("--network", "host", "--user", user, "--volume", mount)
    with running(image, *arguments, command=command) as container:
        address = ready_address(container)
        with grpc.insecure_channel(address) as channel:
            yield container, channel


def ready_address(container: str) -> str:
    """Wait for the server's ready line and return its gRPC address."""
    with subprocess.Popen(
        ["docker", "logs", "--follow", container],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as logs:
        assert logs.stdout is not None
        line = logs.stdout.readline()
        logs.terminate()
    assert line.startswith(_READY_PREFIX), docker("logs", container)
    return line.removeprefix(_READY_PREFIX).split()[0]


def health(channel: grpc.Channel, service: str) -> int:
    """Return the status of a health check."""
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return int(check(health_pb2.HealthCheckRequest(service=service), timeout=_CALL_S).status)


def answers(channel: grpc.Channel, model: str, values: list[float]) -> list[float]:
    """Return what the model answers to a batch of these values."""
    rows = np.array(values, np.float32).reshape(-1, 1)
    request = requests.raw_request(model, requests.one(FP32, rows))
    response = Stub(channel).infer(request, timeout=_CALL_S)
    result: list[float] = requests.answer(response)[:, 0].tolist()
    return result


@pytest.mark.parametrize("user", ["12345:0", "65532:65532", "1000:1000"])
def test_serves_a_repository_to_any_user(image: str, repository: Path, user: str) -> None:
    """Without rights and on a read-only root, health and inference answer over gRPC."""
    with serving(image, f"{repository}:/models:ro", user=user) as (_, channel):
        assert health(channel, "") == health_pb2.HealthCheckResponse.SERVING
        assert health(channel, "plus_two") == health_pb2.HealthCheckResponse.SERVING
        assert answers(channel, "plus_two", [0.5, -2]) == [2.5, 0]


def test_serves_one_model_as_kserve_mounts_it(image: str, repository: Path) -> None:
    """The directory of one model is served under the name that an argument gives."""
    mount = f"{repository / 'plus_two'}:/mnt/models:ro"
    with serving(image, mount, "--model-name", "digits") as (_, channel):
        assert answers(channel, "digits", [1]) == [3]


def test_stop_ends_it_with_code_0(image: str, repository: Path) -> None:
    """`docker stop` drains the server: exit code 0, not killed."""
    with serving(image, f"{repository}:/models:ro") as (container, channel):
        assert health(channel, "") == health_pb2.HealthCheckResponse.SERVING
        docker("stop", "--time", "60", container)
        state = json.loads(docker("inspect", "--format", "{{json .State}}", container))
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


def test_stop_answers_what_is_in_flight(image: str, repository: Path) -> None:
    """A request that runs when `docker stop` comes is still answered."""
    steps = np.array([[500]], np.int64)  # half a second and more
    request = requests.raw_request("slow", requests.one(INT64, steps))
    with serving(image, f"{repository}:/models:ro") as (container, channel):
        assert health(channel, "slow") == health_pb2.HealthCheckResponse.SERVING
        future = Stub(channel).infer.future(request, timeout=_CALL_S)
        docker("stop", "--time", "60", container)
        assert requests.answer(future.result()).tolist() == [[500]]
        assert docker("inspect", "--format", "{{.State.ExitCode}}", container) == "0"


def test_default_command_becomes_healthy(image: str, repository: Path) -> None:
    """Without a command the mounted /models is served and the health check passes."""
    arguments = ("--network", "none", "--health-interval", "1s")
    with running(image, *arguments, "--volume", f"{repository}:/models:ro") as container:
        assert ready_address(container) == "0.0.0.0:8001"
        assert _first_health(container) == "healthy"


def test_has_no_torch(image: str) -> None:
    """The image has the runtime and neither torch nor onnx nor pip."""
    program = "import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)"
    python = ("run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", program)
    docker(*python, "onnxruntime")
    for absent in ("torch", "onnx", "pip", "exporter"):
        run = subprocess.run(["docker", *python, absent], capture_output=True, check=False)
        assert run.returncode == 1, absent


def test_starts_from_bytecode(image: str) -> None:
    """The server's modules come compiled, so that neither start nor health check compiles them."""
    python = ("run", "--rm", "--network", "none", "--entrypoint", "python", image, "-v", "-c")
    run = subprocess.run(
        ["docker", *python, "import service.app.server"],
        capture_output=True,
        text=True,
        check=True,
    )
    for module in ("service/app/server.py", "numpy/__init__.py", "logging/__init__.py"):
        assert re.search(
            rf"^# /opt/penstock/bytecode/\S+ matches \S+/{module}$", run.stderr, re.MULTILINE
        )


def test_configuration(image: str) -> None:
    """It runs as a user without rights, sends no telemetry and names its ports."""
    config = json.loads(docker("image", "inspect", "--format", "{{json .Config}}", image))
    assert config["User"] == "65532:65532"
    assert "ORT_DISABLE_TELEMETRY=1" in config["Env"]
    assert config["ExposedPorts"].keys() == {"8001/tcp", "8002/tcp"}
    assert config["Entrypoint"] == ["penstock"]


def test_is_small(image: str) -> None:
    """It stays below its limits, unpacked and as a gzipped archive."""
    assert int(docker("image", "inspect", "--format", "{{.Size}}", image)) <= MAX_BYTES
    assert _compressed_bytes(image) <= MAX_COMPRESSED_BYTES


def _compressed_bytes(image: str) -> int:
    size = 0

    class Count:
        def write(self, data: bytes) -> int:
            nonlocal size
            size += len(data)
            return len(data)

        def flush(self) -> None:
            """Nothing is held back."""

    with (
        subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as save,
        gzip.GzipFile(fileobj=Count(), mode="wb", compresslevel=6) as packed,
    ):
        assert save.stdout is not None
        while block := save.stdout.read(1 << 20):
            packed.write(block)
    return size


def _first_health(container: str) -> str:
    """Wait for the first verdict of the health check."""
    filters = ("--filter", f"container={container}", "--filter", "event=health_status")
    form = "{{.Status}}"
    with subprocess.Popen(
        ["docker", "events", "--since", "0", *filters, "--format", form],
        stdout=subprocess.PIPE,
        text=True,
    ) as events:
        assert events.stdout is not None
        line = events.stdout.readline()
        events.terminate()
    return line.removeprefix("health_status:").strip()


def _no_engine() -> NoReturn:
    reason = "no Docker Engine answers: start one to test the image"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
