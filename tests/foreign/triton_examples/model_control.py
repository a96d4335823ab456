"""The example of model control, on models that no other program uses."""

import json
from typing import Any

import numpy as np
from example import FIRST, REPOSITORY, SECOND, connect, outputs, pair, refusal, tensor

__all__ = ["connect"]


def test_model_control(client: Any) -> None:
    """A model is unloaded and loaded; unloading an unknown one does nothing, loading it fails."""
    names = {model.name for model in client.get_model_repository_index().models}
    assert {"simple", "dummy", "unloaded"} <= names
    client.load_model("dummy")
    assert client.is_model_ready("dummy")
    client.unload_model("dummy")
    assert not client.is_model_ready("dummy")
    status, message = refusal(lambda: client.get_model_metadata("dummy"))
    assert status == "NOT_FOUND"
    assert message == "Request for unknown model: 'dummy' has no available versions"
    client.load_model("dummy")
    ones = np.ones((1, 10), np.float32)
    assert client.infer("dummy", [tensor("b", ones, "FP32")]).as_numpy("a").tolist() == [[2] * 10]
    client.unload_model("wrong_model_name")
    status, message = refusal(lambda: client.load_model("wrong_model_name"))
    assert status == "INTERNAL"
    assert message == "failed to load 'wrong_model_name', failed to poll from model repository"


def test_index(client: Any) -> None:
    """The index has a model that was never loaded by its name alone, and may be of ready ones."""
    (unloaded,) = [m for m in client.get_model_repository_index().models if m.name == "unloaded"]
    assert (unloaded.version, unloaded.state, unloaded.reason) == ("", "", "")
    client.unload_model("onnx_object_int32_int32")
    index = client.get_model_repository_index().models
    (entry,) = [m for m in index if m.name == "onnx_object_int32_int32"]
    assert (entry.version, entry.state, entry.reason) == ("1", "UNAVAILABLE", "unloaded")
    client.load_model("onnx_object_int32_int32")


def test_load_with_config(client: Any) -> None:
    """A configuration given with the load holds until the next one."""
    client.load_model("simple_int8", config=json.dumps({"max_batch_size": "4"}))
    assert client.get_model_config("simple_int8").config.max_batch_size == 4
    status, message = refusal(lambda: client.load_model("simple_int8", config="{"))
    assert status == "INTERNAL"
    assert "failed to load 'simple_int8', failed to poll from model repository" in message
    assert client.is_model_ready("simple_int8")
    client.load_model("simple_int8", config=json.dumps({"max_batch_size": 8}))
    assert client.get_model_config("simple_int8").config.max_batch_size == 8


def test_load_with_files(client: Any) -> None:
    """Files given with the load are served in place of the repository's, under a new name too."""
    graph = (REPOSITORY / "simple" / "1" / "model.onnx").read_bytes()
    client.load_model("from_memory", config="{}", files={"file:1/model.onnx": graph})
    result = client.infer("from_memory", pair(), outputs=outputs("OUTPUT0"))
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), FIRST + SECOND)
    client.unload_model("from_memory")
    status, _ = refusal(lambda: client.load_model("simple", files={"file:1/model.onnx": graph}))
    assert status == "INTERNAL"
    assert client.is_model_ready("simple")
