"""Versions: side by side, by policy, and swapped while requests go on."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import (
    ModelInferRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    RepositoryIndexRequest,
)
from service.repository.manifest import Manifest
from service.tensors import FP32, TensorSpec
from tests.support import models
from tests.support.requests import answer, one, raw_request
from tests.support.servers import serve
from tests.support.signed import publish_signed, write_keys
from tests.support.stub import WAIT_S, Stub, refusal
from tests.support.waiting import eventually

WATCH = ("--watch", "0.05")


def ask(version: str = "") -> ModelInferRequest:
    """Return a request whose answer is the number of the version that computed it."""
    return raw_request("plus", one(FP32, np.zeros((1, 1), np.float32)), version=version)


def publish(root: Path, version: int) -> None:
    """Publish a version that answers with its number."""
    models.publish(root, "plus", models.add_constant(version), version=version)


def served_by(stub: Stub, version: str = "") -> int:
    """Ask, and return the version that answered; it must say so itself."""
    response = stub.infer(ask(version), timeout=WAIT_S)
    value = int(answer(response)[0, 0])
    assert response.model_version == str(value)
    return value


def ready_versions(stub: Stub) -> list[str]:
    """Return the ready versions by ModelMetadata."""
    return list(stub.model_metadata(ModelMetadataRequest(name="plus"), timeout=WAIT_S).versions)


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", [10]),
        ("version_policy { latest { num_versions: 2 } }", [3, 10]),
        ("version_policy { all { } }", [1, 2, 3, 10]),
        ("version_policy { specific { versions: [ 1, 3 ] } }", [1, 3]),
    ],
    ids=["default", "latest", "all", "specific"],
)
def test_version_policy(tmp_path: Path, policy: str, served: list[int]) -> None:
    """The versions that version_policy names are served, each by its own graph; others are not."""
    for version in (1, 2, 3, 10):
        publish(tmp_path, version)
    (tmp_path / "plus" / "config.pbtxt").write_text(policy)
    with serve(tmp_path) as server, server.stub() as stub:
        assert ready_versions(stub) == [str(version) for version in served]
        for version in served:
            assert served_by(stub, str(version)) == version
        assert served_by(stub) == served[-1]
        for version in {1, 2, 3, 10} - set(served):
            code, text = refusal(stub.infer, ask(str(version)))
            assert code is grpc.StatusCode.NOT_FOUND
            assert f"'plus' version {version} is not found" in text
            ready = stub.model_ready(
                ModelReadyRequest(name="plus", version=str(version)), timeout=WAIT_S
            )
            assert not ready.ready


def test_directories_that_are_no_versions_are_ignored(tmp_path: Path) -> None:
    """Leading zeros, other names and half-published directories are not versions."""
    publish(tmp_path, 1)
    for name in ("02", "x3", ".tmp-4", "5a", "-6", "0"):
        (tmp_path / "plus" / name).mkdir()
        (tmp_path / "plus" / name / "model.onnx").write_bytes(models.add_constant(99))
    (tmp_path / "plus" / "7").write_text("a file")
    with serve(tmp_path) as server, server.stub() as stub:
        assert ready_versions(stub) == ["1"]
        assert served_by(stub) == 1


def test_new_version_takes_over_without_a_failed_request(tmp_path: Path) -> None:
    """In watch mode versions 2 to 4 take over one after another while requests go on."""
    publish(tmp_path, 1)
    with serve(tmp_path, *WATCH) as server, server.stub() as stub:
        with requests_going_on(stub) as seen:
            for version in (2, 3, 4):
                eventually(lambda v=version: seen[-1:] == [v - 1], "the old version answers")  # type: ignore[misc]
                models.publish_by_rename(tmp_path, "plus", models.add_constant(version), version)
                eventually(lambda v=version: seen[-1:] == [v], "the new version answers")  # type: ignore[misc]
        assert seen == sorted(seen)  # no answer of an old version after one of a new
        eventually(lambda: ready_versions(stub) == ["4"], "the old versions are unloaded")
        assert refusal(stub.infer, ask("1"))[0] is grpc.StatusCode.NOT_FOUND


def test_stream_lives_across_a_swap(tmp_path: Path) -> None:
    """A stream that was open before a swap is served by the new version after it."""
    publish(tmp_path, 1)
    with serve(tmp_path, *WATCH) as server, server.stub() as stub:
        swapped = threading.Event()

        def requests() -> Iterator[ModelInferRequest]:
            yield ask()
            assert swapped.wait(WAIT_S)
            yield ask()

        replies = stub.stream(requests(), timeout=WAIT_S)
        assert next(replies).infer_response.model_version == "1"
        models.publish_by_rename(tmp_path, "plus", models.add_constant(2), 2)
        eventually(lambda: ready_versions(stub) == ["2"], "version 2 has taken over")
        swapped.set()
        assert next(replies).infer_response.model_version == "2"
        assert list(replies) == []


def test_broken_version_stays_out(tmp_path: Path) -> None:
    """A new version that cannot be loaded is UNAVAILABLE with its reason; the old one serves on."""
    publish(tmp_path, 1)
    with serve(tmp_path, *WATCH) as server, server.stub() as stub:
        with requests_going_on(stub) as seen:
            models.publish_by_rename(tmp_path, "plus", b"not a model", 2)
            eventually(lambda: states(stub).get("2"), "version 2 was looked at")
            count = len(seen)
            eventually(lambda: len(seen) > count + 20, "requests go on")
        assert set(seen) == {1}
        assert states(stub)["1"] == ("READY", "")
        state, reason = states(stub)["2"]
        assert state == "UNAVAILABLE"
        assert "ONNX Runtime cannot load it" in reason


def test_repository_that_vanishes_stops_nothing(tmp_path: Path) -> None:
    """When the repository cannot be read any more, what serves goes on serving."""
    root = tmp_path / "models"
    publish(root, 1)
    with serve(root, *WATCH) as server, server.stub() as stub:
        root.rename(tmp_path / "away")
        eventually(
            lambda: "cannot be read, what serves goes on" in server.log.read_text(), "logged"
        )
        assert served_by(stub) == 1


def test_model_that_is_removed_is_unloaded(tmp_path: Path) -> None:
    """In watch mode a model whose directory is gone ends as unknown, and others go on."""
    publish(tmp_path, 1)
    models.publish(tmp_path, "other", models.identity(FP32))
    with serve(tmp_path, *WATCH) as server, server.stub() as stub:
        assert served_by(stub) == 1
        (tmp_path / "plus").rename(tmp_path / ".gone")
        eventually(lambda: "plus" not in names(stub), "it is unloaded")
        assert refusal(stub.infer, ask())[0] is grpc.StatusCode.NOT_FOUND
        assert names(stub) == {"other"}


def states(stub: Stub) -> dict[str, tuple[str, str]]:
    """Return state and reason of every version of plus."""
    index = stub.index(RepositoryIndexRequest(), timeout=WAIT_S).models
    return {entry.version: (entry.state, entry.reason) for entry in index}


def names(stub: Stub) -> set[str]:
    """Return the names of the models in the index."""
    return {entry.name for entry in stub.index(RepositoryIndexRequest(), timeout=WAIT_S).models}


@contextmanager
def requests_going_on(stub: Stub) -> Iterator[list[int]]:
    """Ask without a pause and collect which version answered; no request may fail."""
    seen: list[int] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                seen.append(served_by(stub))
            except Exception as error:  # noqa: BLE001  told to the test's own thread
                errors.append(error)
                return

    thread = threading.Thread(target=client)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert errors == []


def test_an_unsigned_version_stays_out(tmp_path: Path) -> None:
    """With --require-signature the signed version goes on serving; the index says why."""
    private, public = write_keys(tmp_path)
    manifest = Manifest(
        name="plus",
        version=0,
        inputs=(TensorSpec("X", FP32, (-1, 1)),),
        outputs=(TensorSpec("Y", FP32, (-1, 1)),),
        max_batch_size=4,
        opset=21,
        files={},
    )
    publish_signed(tmp_path / "models", private, models.add_constant(1), manifest)
    with (
        serve(tmp_path / "models", *WATCH, "--require-signature", str(public)) as server,
        server.stub() as stub,
    ):
        assert served_by(stub) == 1
        publish_signed(tmp_path / "models", None, models.add_constant(2), manifest)

        def index() -> dict[str, str]:
            entries = stub.index(RepositoryIndexRequest(), timeout=WAIT_S).models
            return {entry.version: entry.reason for entry in entries}

        eventually(lambda: "has no model.sig" in index().get("2", ""), "version 2 is refused")
        assert served_by(stub) == 1
