"""What tritonclient's blocking client learns of Penstock and its models, one function a case.

Run in an environment of its own by test_programs.py.
"""

from functools import partial
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from simple import refusal, tensor  # type: ignore[import-not-found]  # beside this file


def connect(address: str) -> Any:
    """Return the client of a case."""
    return grpcclient.InferenceServerClient(address)


def test_server_is_live_and_ready(client: Any) -> None:
    """A server with its models loaded is live and ready and says what it is."""
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata.name == "penstock"
    assert metadata.version


def test_model_ready(client: Any) -> None:
    """A model is ready as such and by version; an unknown one is not, without an error."""
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert not client.is_model_ready("simple", "99")
    assert not client.is_model_ready("absent")


def test_model_metadata(client: Any) -> None:
    """Metadata shows the batch as -1, the datatypes and every version."""
    metadata = client.get_model_metadata("simple")
    assert metadata.name == "simple"
    assert list(metadata.versions) == ["1"]
    assert metadata.platform == "onnxruntime_onnx"
    inputs = [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs]
    assert inputs == [("INPUT0", "INT32", [-1, 16]), ("INPUT1", "INT32", [-1, 16])]
    assert [t.name for t in metadata.outputs] == ["OUTPUT0", "OUTPUT1"]


def test_model_config(client: Any) -> None:
    """The configuration is the file's, completed by what clients rely on."""
    config = client.get_model_config("simple", as_json=True)["config"]
    assert config["name"] == "simple"
    assert config["max_batch_size"] == 8
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"]] == [
        ("INPUT0", "TYPE_INT32", ["16"]),
        ("INPUT1", "TYPE_INT32", ["16"]),
    ]
    assert "dynamic_batching" in config
    assert config["instance_group"][0]["kind"] in {"KIND_CPU", "KIND_GPU"}


def test_model_config_of_a_model_without_one(client: Any) -> None:
    """A model without config.pbtxt has a configuration too, read from its graph."""
    config = client.get_model_config("identity_fp16", as_json=True)["config"]
    assert config["name"] == "identity_fp16"
    assert config["input"][0]["data_type"] == "TYPE_FP16"
    assert config["output"][0]["name"] == "Y"


def test_metadata_of_an_unknown_model(client: Any) -> None:
    """Metadata and configuration of an unknown model are NOT_FOUND."""
    for call in (client.get_model_metadata, client.get_model_config):
        status, message = refusal(partial(call, "absent"))
        assert status == "StatusCode.NOT_FOUND"
        assert message.startswith("Request for unknown model: 'absent'")


def test_statistics(client: Any) -> None:
    """Statistics of a model grow by what it has answered."""

    def read() -> tuple[int, int, int]:
        (stats,) = client.get_inference_statistics("identity_fp32").model_stats
        assert stats.name == "identity_fp32"
        assert int(stats.version) == 1
        inference = stats.inference_stats
        return stats.inference_count, inference.success.count, inference.queue.count

    array = np.zeros((3, 2), np.float32)
    inputs = [tensor("X", array, "FP32")]
    client.infer("identity_fp32", inputs)
    before = read()
    client.infer("identity_fp32", inputs)
    after = read()
    assert [b - a for a, b in zip(before, after, strict=True)] == [3, 1, 1]
    assert len(client.get_inference_statistics().model_stats) >= 6


def test_repository_index(client: Any) -> None:
    """The index has every model of the repository, ready."""
    index = client.get_model_repository_index()
    states = {(model.name, model.version): model.state for model in index.models}
    assert states[("simple", "1")] == "READY"
    assert {name for name, _ in states} == {
        "identity_bf16",
        "identity_bytes",
        "identity_fp16",
        "identity_fp32",
        "simple",
        "slow",
    }
