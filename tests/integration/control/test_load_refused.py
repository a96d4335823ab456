"""Loads and unloads that are refused: each code and text, and what served goes on serving."""

import grpc
import pytest

from service.pb.grpc_service_pb2 import (
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
)
from tests.integration.control.conftest import Controlled
from tests.support.stub import refusal

CODE = grpc.StatusCode
UNPOLLED = "failed to load '{}', failed to poll from model repository"
JUNK = b"no model"


@pytest.mark.parametrize(
    ("name", "config", "files"),
    [
        ("absent", None, {}),
        ("plus", "{", {}),
        ("plus", {"unknown_field": 1}, {}),
        ("plus", {"max_batch_size": -1}, {}),
        ("plus", {"max_batch_size": "many"}, {}),
        ("plus", {"name": "other"}, {}),
        ("plus", {"backend": "python"}, {}),
        ("plus", '{"parameters":' * 200, {}),
        ("plus", None, {"1/model.onnx": JUNK}),
        ("plus", {}, {f"1/{'m' * 300}": JUNK}),
        ("plus", {}, {f"1/{index}": JUNK for index in range(65)}),
        ("$(id)", {}, {"1/model.onnx": JUNK}),
        ("a" * 129, None, {}),
    ],
)
def test_what_cannot_be_loaded_from(
    refusing: Controlled, name: str, config: object, files: dict[str, bytes]
) -> None:
    """A model that is not there and overrides that cannot be used are one INTERNAL text."""
    code, text = refusing.refused(name, config, files)
    shown = name if len(name) < 65 else name[:64] + "..."
    assert (code, text) == (CODE.INTERNAL, UNPOLLED.format(shown))


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "1/../../x",
        "/etc/x",
        "1//x",
        "1/.x",
        "",
        "1/x/",
        "a/b/c/d/e",
        "1/x y",
        "1/\\x",
        "1/é",
    ],
)
def test_files_that_would_lie_elsewhere(refusing: Controlled, path: str) -> None:
    """A path that is not plainly below the model's directory is refused."""
    code, text = refusing.refused("plus", {}, {path: JUNK})
    assert code is CODE.INVALID_ARGUMENT
    assert "is no path below the model's directory" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", "Model name cannot be empty. Please enter a valid name to deploy."),
        (" \t", "Model name cannot be empty. Please enter a valid name to deploy."),
        ("../plus", "model name must not contain path traversal characters"),
        ("..", "model name must not contain path traversal characters"),
        ("a/b", "model name must not contain path traversal characters"),
    ],
)
def test_names_that_are_none(refusing: Controlled, name: str, text: str) -> None:
    """Names that are empty or could lead elsewhere are refused before anything is looked up."""
    assert refusing.refused(name) == (CODE.INVALID_ARGUMENT, text)
    unload = RepositoryModelUnloadRequest(model_name=name)
    assert refusal(refusing.stub.unload, unload) == (CODE.INVALID_ARGUMENT, text)


def test_parameters_of_the_wrong_kind(refusing: Controlled) -> None:
    """Each is told by its name, with the kind that was expected."""
    c = refusing
    request = RepositoryModelLoadRequest(model_name="plus")
    request.parameters["config"].bool_param = True
    text = "invalid value type for load parameter 'config', expected string_param."
    assert refusal(c.stub.load, request) == (CODE.INVALID_ARGUMENT, text)
    request = RepositoryModelLoadRequest(model_name="plus")
    request.parameters["file:1/model.onnx"].string_param = "x"
    text = "invalid value type for load parameter 'file:1/model.onnx', expected bytes_param."
    assert refusal(c.stub.load, request) == (CODE.INVALID_ARGUMENT, text)
    request = RepositoryModelLoadRequest(model_name="plus")
    request.parameters["k"].string_param = "x"
    text = "unrecognized load parameter 'k'."
    assert refusal(c.stub.load, request) == (CODE.INVALID_ARGUMENT, text)
    unload = RepositoryModelUnloadRequest(model_name="plus")
    unload.parameters["unload_dependents"].int64_param = 1
    text = "invalid value type for 'unload_dependents' parameter, expected bool_param."
    assert refusal(c.stub.unload, unload) == (CODE.INVALID_ARGUMENT, text)


def test_index_of_a_named_repository(refusing: Controlled) -> None:
    """There is one repository, which has no name."""
    request = RepositoryIndexRequest(repository_name="models")
    text = "'repository_name' specification is not supported"
    assert refusal(refusing.stub.index, request) == (CODE.UNIMPLEMENTED, text)
