"""RepositoryModelLoad, RepositoryModelUnload and RepositoryIndex, and how they fail."""

import os
from pathlib import Path

import grpc
import pytest

from service.pb.grpc_service_pb2 import (
    ModelConfigRequest,
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
)
from tests.integration.conftest import Serve
from tests.integration.control.conftest import Controlled, load_request
from tests.support import models
from tests.support.servers import run_serve
from tests.support.stub import WAIT_S, refusal

CODE = grpc.StatusCode
UNPOLLED = "failed to load '{}', failed to poll from model repository"
JUNK = b"no model"


def test_a_model_comes_and_goes(controlled: Controlled) -> None:
    """Unknown, in the repository, loaded, unloaded: each state has its answers."""
    c = controlled
    assert c.is_ready()  # with nothing loaded
    assert c.index() == []
    c.publish(1)
    assert c.index() == [("plus", "", "", "")]
    assert c.infer_refused() == (
        CODE.NOT_FOUND,
        "Request for unknown model: 'plus' is not found",
    )
    assert not c.is_model_ready()
    assert c.health() is None
    c.load()
    assert c.health() == "SERVING"
    assert c.value() == ("1", 1.0)
    assert c.index() == [("plus", "1", "READY", "")]
    assert c.is_model_ready()
    assert c.is_model_ready("1")
    c.unload()
    assert c.index() == [("plus", "1", "UNAVAILABLE", "unloaded")]
    assert c.index(ready=True) == []
    assert c.infer_refused() == (
        CODE.NOT_FOUND,
        "Request for unknown model: 'plus' has no available versions",
    )
    assert c.infer_refused("1") == (
        CODE.UNAVAILABLE,
        "Request for unknown model: 'plus' version 1 is not at ready state",
    )
    assert not c.is_model_ready()
    assert not c.is_model_ready("1")
    assert c.health() == "NOT_SERVING"
    assert c.is_ready()
    c.load()
    assert c.value() == ("1", 1.0)


def test_unloading_what_is_not_loaded(controlled: Controlled) -> None:
    """It is no error, whether or not the model exists, and with what clients always send."""
    controlled.publish(1)
    for name in ("plus", "absent"):
        request = RepositoryModelUnloadRequest(model_name=name)
        request.parameters["unload_dependents"].bool_param = True
        request.parameters["anything"].string_param = "else"
        controlled.stub.unload(request, timeout=WAIT_S)
    assert controlled.index() == [("plus", "", "", "")]


def test_kserve_names_the_model_in_the_first_field(controlled: Controlled) -> None:
    """Without a model's name that of the repository is taken for it."""
    controlled.publish(1)
    controlled.stub.load(RepositoryModelLoadRequest(repository_name="plus"), timeout=WAIT_S)
    assert controlled.value() == ("1", 1.0)
    controlled.stub.unload(RepositoryModelUnloadRequest(repository_name="plus"), timeout=WAIT_S)
    assert not controlled.is_model_ready()


def test_load_again_only_what_has_changed(controlled: Controlled) -> None:
    """Statistics go on where nothing has changed, and begin anew where something has."""
    c = controlled
    c.publish(1)
    c.load()
    c.value()
    c.load()
    assert c.stub.stats_of("plus").inference_count == 1
    path = c.root / "plus" / "1" / "model.onnx"
    path.write_bytes(models.add_constant(5))
    c.load()
    assert c.stub.stats_of("plus").inference_count == 0
    assert c.value() == ("1", 5.0)
    c.publish(2, version=2)
    c.load()
    assert c.value() == ("2", 2.0)
    assert ("plus", "1", "UNAVAILABLE", "unloaded") in c.index()


def test_config_in_place_of_the_file(controlled: Controlled) -> None:
    """A partial config in JSON counts until the files change or the model is unloaded."""
    c = controlled
    c.publish(1)

    def max_batch_size() -> int:
        request = ModelConfigRequest(name="plus")
        return int(c.stub.model_config(request, timeout=WAIT_S).config.max_batch_size)

    c.load(config={"max_batch_size": "16"})
    assert max_batch_size() == 16
    c.load()
    assert max_batch_size() == 16
    c.load(config={"maxBatchSize": 4, "versionPolicy": {"all": {}}})
    assert max_batch_size() == 4
    (c.root / "plus" / "config.pbtxt").write_text("max_batch_size: 7")
    c.load()
    assert max_batch_size() == 7
    c.load(config={"max_batch_size": 3})
    c.unload()
    c.load()
    assert max_batch_size() == 7


def test_files_in_place_of_the_directory(controlled: Controlled) -> None:
    """Files of a caller are served alone, also for a model that the repository has not."""
    c = controlled
    c.publish(1)
    for name in ("plus", "mine"):
        files = {"7/model.onnx": models.add_constant(7), "labels.txt": b"a\nb\n"}
        c.load(name, {}, files)
        assert c.value(name=name) == ("7", 7.0)
    assert c.infer_refused("1")[0] is CODE.NOT_FOUND
    c.load()  # nothing has changed: what was given stays in force
    c.load("mine")
    assert c.value() == ("7", 7.0)
    c.unload()
    c.unload("mine")
    c.load()
    assert c.value() == ("1", 1.0)
    assert c.refused("mine") == (CODE.INTERNAL, UNPOLLED.format("mine"))


def test_files_are_private_and_removed(tmp_path: Path, serve: Serve) -> None:
    """They lie in a directory of the server's own, until the model is unloaded or it ends."""
    given = tmp_path / "tmp"
    for path in (given, tmp_path / "models"):
        path.mkdir()
    with (
        serve(
            tmp_path / "models",
            "--model-control",
            "explicit",
            environment={**os.environ, "TMPDIR": str(given)},
        ) as server,
        server.stub() as stub,
    ):
        c = Controlled(server, stub, tmp_path / "models")
        for name in ("one", "two"):
            files = {"1/model.onnx": models.add_constant(1)}
            c.load(name, {}, files)
        assert {path.stat().st_mode & 0o777 for path in given.iterdir()} == {0o700}
        assert len(list(given.iterdir())) == 2
        files = {"1/model.onnx": models.add_constant(2)}
        c.load("one", {}, files)
        assert c.value(name="one") == ("1", 2.0)
        assert c.refused("one", {}, {"1/model.onnx": JUNK})[0] is CODE.INVALID_ARGUMENT
        assert c.value(name="one") == ("1", 2.0)
        assert len(list(given.iterdir())) == 2
        c.unload("one")
        assert len(list(given.iterdir())) == 1
    assert list(given.iterdir()) == []


def test_failed_reload_leaves_the_old_serving(controlled: Controlled) -> None:
    """What cannot be served is INVALID_ARGUMENT with its reason, and tells no path."""
    c = controlled
    c.publish(1)
    c.load()
    path = c.root / "plus" / "1" / "model.onnx"
    path.write_bytes(JUNK)
    code, text = c.refused()
    assert code is CODE.INVALID_ARGUMENT
    assert text.startswith("load failed for model 'plus': version 1 is at UNAVAILABLE state: ")
    assert str(c.root) not in text
    assert c.value() == ("1", 1.0)
    assert c.index() == [("plus", "1", "READY", "")]
    path.write_bytes(models.add_constant(1))
    c.publish(3, version=3)
    c.publish(4, version=4)
    (c.root / "plus" / "4" / "model.onnx").write_bytes(JUNK)
    assert c.refused(config={"version_policy": {"all": {}}})[0] is CODE.INVALID_ARGUMENT
    assert c.value() == ("1", 1.0)  # all or nothing
    assert c.infer_refused("3")[0] is CODE.UNAVAILABLE
    assert c.is_ready()


def test_failed_first_load(controlled: Controlled) -> None:
    """The index keeps the reason, the server is not ready until the model is unloaded."""
    c = controlled
    c.publish(1)
    (c.root / "plus" / "1" / "model.onnx").write_bytes(JUNK)
    assert c.refused()[0] is CODE.INVALID_ARGUMENT
    ((name, version, state, reason),) = c.index()
    assert (name, version, state) == ("plus", "1", "UNAVAILABLE")
    assert "model.onnx" in reason
    assert str(c.root) not in reason
    assert not c.is_ready()
    assert c.infer_refused("1")[0] is CODE.UNAVAILABLE
    c.unload()
    assert c.is_ready()


@pytest.mark.parametrize("flags", [(), ("--model-control", "poll"), ("--watch", "60")])
def test_control_that_is_not_explicit(tmp_path: Path, serve: Serve, flags: tuple[str, ...]) -> None:
    """Loading and unloading are UNAVAILABLE, with Triton's text, also for names that are none."""
    models.publish(tmp_path, "plus", models.add_constant(1))
    text = (
        "explicit model load / unload is not allowed if polling is enabled; "
        "penstock serve --model-control explicit allows it"
    )
    with serve(tmp_path, *flags) as server, server.stub() as stub:
        for name in ("plus", "../plus"):
            load = load_request(name)
            assert refusal(stub.load, load) == (CODE.UNAVAILABLE, text)
            unload = RepositoryModelUnloadRequest(model_name=name)
            assert refusal(stub.unload, unload) == (CODE.UNAVAILABLE, text)
        models.publish(tmp_path, "later", models.add_constant(1))
        response = stub.index(RepositoryIndexRequest(), timeout=WAIT_S)
        entries = [(model.name, model.version, model.state) for model in response.models]
        assert entries == [("later", "", ""), ("plus", "1", "READY")]


def test_models_that_are_loaded_at_start(tmp_path: Path, serve: Serve) -> None:
    """Those that --load-model names are loaded, or all; a name that is not there ends the start."""
    for name in ("a", "b", "c"):
        models.publish(tmp_path, name, models.add_constant(1))
    explicit = ("--model-control", "explicit")
    for flags, ready in [
        (("--load-model", "a", "--load-model", "c"), ["a", "c"]),
        (("--load-model", "*"), ["a", "b", "c"]),
    ]:
        with serve(tmp_path, *explicit, *flags) as server, server.stub() as stub:
            c = Controlled(server, stub, tmp_path)
            assert [name for name, *_ in c.index(ready=True)] == ready
            c.value(name="a")
            c.load("a")  # as it was loaded at start
            assert stub.stats_of("a").inference_count == 1
    ended = run_serve(str(tmp_path), *explicit, "--load-model", "d", "--port", "0")
    assert ended.returncode == 2
    assert "--load-model d: not in" in ended.stderr
