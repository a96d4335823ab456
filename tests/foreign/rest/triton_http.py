"""What tritonclient's HTTP client, on gevent, gets from Penstock, one function a case.

Run in an environment of its own by test_rest.py.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.http as httpclient
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

RNG = np.random.default_rng(21)


def connect(address: str) -> Any:
    """Return the client of a case."""
    return httpclient.InferenceServerClient(address, concurrency=8)


def tensor(name: str, array: np.ndarray, datatype: str, *, binary: bool = True) -> Any:
    """Return an input of a request."""
    value = httpclient.InferInput(name, list(array.shape), datatype)
    value.set_data_from_numpy(array, binary_data=binary)
    return value


def pair(*, binary: bool = True) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Return random values for simple's two inputs, and the inputs."""
    first, second = RNG.integers(-1000, 1000, (2, 1, 16), np.int32)
    inputs = [
        tensor("INPUT0", first, "INT32", binary=binary),
        tensor("INPUT1", second, "INT32", binary=binary),
    ]
    return first, second, inputs


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    """Return status and message of the error that call must raise."""
    try:
        call()
    except InferenceServerException as error:
        return error.status(), error.message()
    raise AssertionError("the server accepted what it should refuse")


def test_health_and_metadata(client: Any) -> None:
    """Health, metadata, configuration, statistics and index."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert not client.is_model_ready("absent")
    assert client.get_server_metadata()["name"] == "triton"
    assert client.get_model_metadata("simple")["inputs"][0]["datatype"] == "INT32"
    assert client.get_model_config("simple")["max_batch_size"] == 8
    client.infer("simple", pair()[2])
    (stats,) = client.get_inference_statistics("simple")["model_stats"]
    assert stats["inference_stats"]["success"]["count"] > 0
    stats = client.get_inference_statistics()["model_stats"]
    assert {"simple", "identity_bytes"} <= {model["name"] for model in stats}
    names = {model["name"] for model in client.get_model_repository_index()}
    assert "simple_string" in names


def test_binary_and_json(client: Any) -> None:
    """Every mixture of binary and JSON in and out gives the right numbers."""
    for binary_in in (False, True):
        for binary_out in (False, True):
            first, second, inputs = pair(binary=binary_in)
            outputs = [
                httpclient.InferRequestedOutput("OUTPUT1", binary_data=binary_out),
                httpclient.InferRequestedOutput("OUTPUT0", binary_data=not binary_out),
            ]
            result = client.infer("simple", inputs, outputs=outputs, request_id="7")
            assert result.get_response()["id"] == "7"
            np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), first + second)
            np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), first - second)


def test_datatypes(client: Any) -> None:
    """Floats of 16 bits, of 32 with and without JSON, and strings come back as they were."""
    half = np.array([0.5, -0.0, np.inf, 6e-8], np.float16)
    result = client.infer("identity_fp16", [tensor("INPUT0", half, "FP16")])
    assert result.as_numpy("OUTPUT0").tobytes() == half.tobytes()
    single = RNG.standard_normal(64, np.float32)
    outputs = [httpclient.InferRequestedOutput("OUTPUT0", binary_data=False)]
    for binary in (False, True):
        inputs = [tensor("INPUT0", single, "FP32", binary=binary)]
        result = client.infer("identity_fp32", inputs, outputs=outputs)
        assert result.as_numpy("OUTPUT0").tobytes() == single.tobytes()
    texts = np.array(["plain", "Übergröße", ""], object)
    for binary in (False, True):
        inputs = [tensor("INPUT0", texts, "BYTES", binary=binary)]
        result = client.infer("identity_bytes", inputs)
        assert [text.decode() for text in result.as_numpy("OUTPUT0").ravel()] == list(texts.ravel())


def test_asynchronous(client: Any) -> None:
    """Forty requests on eight connections each get their own rows."""
    asked = [pair() for _ in range(40)]
    pending = [client.async_infer("simple", inputs) for *_, inputs in asked]
    for (first, second, _), answer in zip(asked, pending, strict=True):
        np.testing.assert_array_equal(answer.get_result().as_numpy("OUTPUT0"), first + second)


def test_compression(client: Any) -> None:
    """Requests may be compressed, and answers asked for so."""
    for coding in ("gzip", "deflate"):
        first, second, inputs = pair()
        result = client.infer(
            "simple", inputs,
            request_compression_algorithm=coding, response_compression_algorithm=coding,
        )  # fmt: skip
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), first + second)


def test_classification(client: Any) -> None:
    """The best class has its label."""
    image = np.zeros((3, 224, 224), np.float32)
    outputs = [httpclient.InferRequestedOutput("fc6_1", class_count=2)]
    result = client.infer("densenet_onnx", [tensor("data_0", image, "FP32")], outputs=outputs)
    assert result.as_numpy("fc6_1").ravel()[0].endswith(b":VULTURE")


def test_sequence(client: Any) -> None:
    """A sequence begins, goes on and ends, under a number and under a text."""
    for model, correlation, expected in (
        ("simple_sequence", 4711, [6, 6, 7]),  # the first one of a sequence is one more
        ("simple_string_dyna_sequence", "4712", [5, 11, 18 + 4712]),  # sums, and the id at the end
    ):
        got = []
        for step, value in enumerate((5, 6, 7)):
            result = client.infer(
                model, [tensor("INPUT", np.array([[value]], np.int32), "INT32")],
                sequence_id=correlation, sequence_start=step == 0, sequence_end=step == 2,
            )  # fmt: skip
            got.append(int(result.as_numpy("OUTPUT").ravel()[0]))
        assert got == expected, (model, got)


def test_decoupled_is_refused(client: Any) -> None:
    """A model that may give several answers cannot be asked over REST."""
    inputs = [
        tensor("IN", np.array([1], np.int32), "INT32"),
        tensor("DELAY", np.array([0], np.uint32), "UINT32"),
        tensor("WAIT", np.array([0], np.uint32), "UINT32"),
    ]
    status, text = refusal(lambda: client.infer("repeat_int32", inputs))
    assert status == "501"
    assert "doesn't support models with decoupled transaction policy" in text


def test_errors(client: Any) -> None:
    """Errors carry HTTP's status and Triton's words."""
    inputs = pair()[2]
    assert refusal(lambda: client.infer("absent", inputs)) == (
        "404", "Request for unknown model: 'absent' is not found",
    )  # fmt: skip
    status, text = refusal(lambda: client.infer("simple", inputs[:1]))
    assert status == "400"
    assert "expected 2 inputs but got 1 inputs for model 'simple'" in text


def test_control(client: Any) -> None:
    """A model is unloaded, and loaded again with another configuration."""
    client.unload_model("simple_identity")
    assert not client.is_model_ready("simple_identity")
    client.load_model("simple_identity", config=json.dumps({"max_batch_size": 3}))
    assert client.get_model_config("simple_identity")["max_batch_size"] == 3
    client.load_model("simple_identity")


def test_settings(client: Any) -> None:
    """Settings of traces and log are read and set, and a model's own taken back."""
    rate = client.get_trace_settings()["trace_rate"]
    changed = client.update_trace_settings("simple_string", {"trace_rate": "77"})
    assert changed["trace_rate"] == "77"
    assert client.get_trace_settings("simple_string")["trace_rate"] == "77"
    client.update_trace_settings("simple_string", {"trace_rate": None})
    assert client.get_trace_settings("simple_string")["trace_rate"] == rate
    assert client.update_trace_settings(settings={"trace_rate": rate})["trace_rate"] == rate
    form = client.get_log_settings()["log_format"]
    assert client.update_log_settings({"log_format": form})["log_format"] == form


def test_cuda_shared_memory(client: Any) -> None:
    """Without a region there is none to tell of, and nothing to unregister."""
    assert client.get_cuda_shared_memory_status() == []
    client.unregister_cuda_shared_memory("absent")
    client.unregister_cuda_shared_memory()


def test_shared_memory(client: Any) -> None:
    """Inputs and outputs may lie in shared memory."""
    first, second = RNG.integers(-1000, 1000, (2, 1, 16), np.int32)
    handle = shm.create_shared_memory_region("rest", "/penstock_rest_foreign", 192)
    try:
        shm.set_shared_memory_region(handle, [first, second])
        client.register_system_shared_memory("rest", "/penstock_rest_foreign", 192)
        (status,) = client.get_system_shared_memory_status()
        assert (status["name"], status["byte_size"]) == ("rest", 192)
        inputs = [httpclient.InferInput(f"INPUT{i}", [1, 16], "INT32") for i in range(2)]
        for index, value in enumerate(inputs):
            value.set_shared_memory("rest", 64, offset=64 * index)
        output = httpclient.InferRequestedOutput("OUTPUT0")
        output.set_shared_memory("rest", 64, offset=128)
        client.infer("simple", inputs, outputs=[output])
        got = shm.get_contents_as_numpy(handle, np.int32, [1, 16], offset=128)
        np.testing.assert_array_equal(got, first + second)
        assert client.get_system_shared_memory_status("rest") == [status]
        client.unregister_system_shared_memory("rest")
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status()
    finally:
        shm.destroy_shared_memory_region(handle)
