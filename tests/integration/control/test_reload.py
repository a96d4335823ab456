"""Loads and unloads under requests: nothing that was accepted is lost, nothing is mixed up."""

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelMetadataRequest
from service.tensors import FP32
from tests.integration.conftest import Serve
from tests.integration.control.conftest import Controlled, load_request
from tests.support import models, python_models
from tests.support.requests import answer, one, raw_request
from tests.support.stub import WAIT_S, Outgoing, refusal
from tests.support.waiting import eventually

CODE = grpc.StatusCode
GATED_CONFIG = """
name: "gated"
backend: "python"
max_batch_size: 0
input { name: "X" data_type: TYPE_FP32 dims: 1 }
output { name: "Y" data_type: TYPE_FP32 dims: 1 }
instance_group { count: 1 kind: KIND_CPU }
"""
GATED = """
import time
from pathlib import Path

class Model:
    def __init__(self, context):
        with Path({begun!r}).open("a") as file:
            file.write(".")
        while not Path({gate!r}).exists():
            time.sleep(0.01)

    def infer(self, request):
        return {{"Y": request.inputs["X"]}}
"""
UNREADY = "is not at ready state"
CONFIG = {"version_policy": {"specific": {"versions": [1]}}}


@contextmanager
def asking(c: Controlled) -> Iterator[list[float]]:
    """Ask without a pause and collect the answers; each is of the version that it names."""
    seen: list[float] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def client() -> None:
        try:
            while not stop.is_set():
                version, value = c.value()
                assert float(version) == value
                seen.append(value)
        except Exception as error:  # noqa: BLE001  told to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert errors == []


def test_reloads_under_requests_lose_none(controlled: Controlled) -> None:
    """Two versions take each other's place ten times; every request is answered, by one of them."""
    c = controlled
    c.publish(1, version=1)
    c.publish(2, version=2)
    c.load()
    with asking(c) as seen:
        for count in range(10):
            c.load(config=CONFIG if count % 2 else {"max_batch_size": 4 + count})
            c.value()
    assert set(seen) == {1.0, 2.0}


def test_unload_answers_what_was_accepted(controlled: Controlled) -> None:
    """Of many requests at once each is answered by the version, or refused as not ready."""
    c = controlled
    c.publish(1)
    for _ in range(3):
        c.load()
        with ThreadPoolExecutor(8) as pool:

            def ask(_number: int) -> str:
                try:
                    assert c.value("1") == ("1", 1.0)
                except grpc.RpcError as error:
                    assert error.code() is CODE.UNAVAILABLE  # noqa: PT017  either is right
                    return error.details() or ""
                return "answered"

            answers = pool.map(ask, range(200))
            c.unload()
        told = set(answers)
        assert told <= {
            "answered",
            f"Request for unknown model: 'plus' version 1 {UNREADY}",
        }
        assert c.infer_refused("1")[0] is CODE.UNAVAILABLE


def test_a_stream_outlives_the_versions_that_it_names(controlled: Controlled) -> None:
    """It is answered by the version it asks for as long as that serves; after that by an error."""
    c = controlled
    c.publish(1)
    c.load()
    requests = Outgoing()
    replies = c.stub.stream(iter(requests), timeout=WAIT_S)

    def ask(version: str) -> tuple[str, float]:
        inputs = one(FP32, np.zeros((1, 1), np.float32))
        requests.send(raw_request("plus", inputs, version=version, request_id="7"))
        reply = next(replies)
        if reply.error_message:
            return reply.error_message, 0.0
        response = reply.infer_response
        return response.model_version, float(answer(response)[0, 0])

    assert ask("1") == ask("") == ("1", 1.0)
    c.publish(2, version=2)
    c.load(config={"version_policy": {"all": {}}})
    assert ask("1") == ("1", 1.0)
    assert ask("") == ("2", 2.0)
    c.load(config={})
    assert ask("1") == (f"Request for unknown model: 'plus' version 1 {UNREADY}", 0.0)
    assert ask("2") == ("2", 2.0)
    c.unload()
    assert ask("") == ("Request for unknown model: 'plus' has no available versions", 0.0)
    c.load()
    assert ask("") == ("2", 2.0)
    requests.half_close()
    assert list(replies) == []


def test_callers_bring_no_code(tmp_path: Path, serve: Serve) -> None:
    """A config of callers does not switch the Python backend on; their files are never run."""
    marker = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    models.publish(tmp_path / "models", "plus", models.add_constant(1))
    (tmp_path / "models" / "plus" / "1" / "model.py").write_text(code)
    config = json.dumps(
        {
            "backend": "python",
            "input": [{"name": "X", "data_type": "TYPE_FP32", "dims": [1]}],
            "output": [{"name": "Y", "data_type": "TYPE_FP32", "dims": [1]}],
        }
    )
    files = {"1/model.py": code.encode()}
    for flags in ((), ("--allow-python-backend",)):
        with (
            serve(tmp_path / "models", "--model-control", "explicit", *flags) as server,
            server.stub() as stub,
        ):
            c = Controlled(server, stub, tmp_path)
            c.load()
            assert refusal(stub.load, load_request("plus", config, files))[0] is CODE.INTERNAL
            if not flags:
                code_, text = refusal(stub.load, load_request("plus", config))
                assert code_ is CODE.INVALID_ARGUMENT
                assert "--allow-python-backend" in text
            assert c.value() == ("1", 1.0)
            assert not marker.exists()


def test_models_of_python_come_and_go(tmp_path: Path, serve: Serve) -> None:
    """What is written in Python is loaded, loaded again and unloaded as any other model."""
    repository = python_models.write(tmp_path)
    names = sorted(path.name for path in repository.iterdir())
    with (
        serve(repository, "--model-control", "explicit", "--allow-python-backend") as server,
        server.stub() as stub,
    ):
        c = Controlled(server, stub, repository)
        for name in names[:3]:
            c.load(name)
            assert c.is_model_ready(name=name)
            metadata = stub.model_metadata(ModelMetadataRequest(name=name), timeout=WAIT_S)
            assert metadata.platform == "python"  # as Triton, the backend where there is none
            path = next((repository / name / "1").glob("*.py"))
            path.write_text(path.read_text() + "\n")
            c.load(name)
            assert c.is_model_ready(name=name)
            c.unload(name)
            assert not c.is_model_ready(name=name)


def test_a_server_that_ends_removes_what_it_was_given(tmp_path: Path, serve: Serve) -> None:
    """SIGTERM while models are loaded and unloaded: the exit code is 0 and nothing is left."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    root = tmp_path / "models"
    root.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with serve(root, "--model-control", "explicit", environment=environment) as server:
        stop = threading.Event()

        def load(name: str) -> None:
            with server.stub() as stub:
                files = {"1/model.onnx": models.add_constant(1)}
                while not stop.is_set():
                    try:
                        stub.load(load_request(name, {}, files), timeout=WAIT_S)
                    except grpc.RpcError as error:
                        assert error.code() is CODE.UNAVAILABLE  # noqa: PT017  the server has gone
                        return

        with ThreadPoolExecutor(3) as pool:
            loads = [pool.submit(load, f"m{number}") for number in range(3)]
            with server.stub() as stub:
                c = Controlled(server, stub, root)
                while not c.index(ready=True):
                    pass
            server.terminate()
            for future in loads:
                future.result(WAIT_S)
            stop.set()
        assert server.wait() == 0
    assert list(temporary.iterdir()) == []


def test_what_is_unloaded_is_let_go_of(controlled: Controlled) -> None:
    """Twenty models that come and go leave no file, no thread and hardly any memory behind."""
    c = controlled
    files = {"1/model.onnx": models.mlp(sizes=(784, 1024, 1024, 10))}  # 7 MiB of weights

    def come_and_go(count: int) -> None:
        for number in range(count):
            c.load(f"m{number}", {}, files)
            c.unload(f"m{number}")

    def threads() -> int:
        return len(list(Path(f"/proc/{c.server.process.pid}/task").iterdir()))

    come_and_go(5)
    before = c.server.descriptors(), threads(), c.server.rss_mib()
    come_and_go(20)
    assert c.server.descriptors() <= before[0]
    assert threads() <= before[1] + 3  # of the four that load, one has been seen at least
    assert c.server.rss_mib() < before[2] + 70  # half of what twenty would keep


@pytest.fixture
def gated(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Write a model whose load waits for a file: the repository, a file at its begin, that file."""
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    directory = tmp_path / "models" / "gated" / "1"
    directory.mkdir(parents=True)
    (directory.parent / "config.pbtxt").write_text(GATED_CONFIG)
    (directory / "model.py").write_text(GATED.format(begun=str(begun), gate=str(gate)))
    models.publish(tmp_path / "models", "plus", models.add_constant(1))
    return tmp_path / "models", begun, gate


def test_a_load_that_takes_long_holds_up_nothing(
    gated: tuple[Path, Path, Path], serve: Serve
) -> None:
    """Requests, other loads and the index go on; a caller who leaves does not stop it."""
    root, begun, gate = gated
    flags = ("--model-control", "explicit", "--allow-python-backend")
    with serve(root, *flags) as server, server.stub() as stub:
        c = Controlled(server, stub, root)
        load = stub.load.future(load_request("gated"), timeout=WAIT_S)
        eventually(begun.exists, "the load has begun")
        assert ("gated", "1", "LOADING", "") in c.index()
        assert c.is_ready()
        assert not c.is_model_ready(name="gated")
        assert c.infer_refused("1", "gated")[0] is CODE.UNAVAILABLE
        c.load()
        assert c.value() == ("1", 1.0)
        again = stub.load.future(load_request("gated"), timeout=WAIT_S)
        load.cancel()
        again.cancel()
        c.unload()
        assert not c.is_model_ready(name="gated")
        gate.touch()
        eventually(lambda: c.is_model_ready(name="gated"), "the load has ended")
        assert len(begun.read_text()) == 1  # the second one was forgotten


def test_the_end_does_not_wait_for_a_load(gated: tuple[Path, Path, Path], serve: Serve) -> None:
    """SIGTERM while a model is loaded: its caller is told at once, and the exit code is 0."""
    root, begun, gate = gated
    flags = ("--model-control", "explicit", "--allow-python-backend")
    with serve(root, *flags) as server, server.stub() as stub:
        load = stub.load.future(load_request("gated"), timeout=WAIT_S)
        eventually(begun.exists, "the load has begun")
        server.terminate()
        assert load.exception(WAIT_S).code() is CODE.UNAVAILABLE
        gate.touch()
        assert server.wait() == 0
