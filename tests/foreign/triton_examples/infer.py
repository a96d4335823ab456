"""The examples of requests: simple, async, text, raw stubs, options of the channel, images."""

import queue
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc as grpcclient
from example import (
    FIRST,
    SECOND,
    connect,
    expect_sums,
    outputs,
    pair,
    refusal,
    tensor,
    text,
)
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor

__all__ = ["connect"]
WAIT_S = 30.0


def test_infer(client: Any) -> None:
    """Sums and differences come back, by name, with statistics of exactly one version."""
    expect_sums(client.infer("simple", pair(), outputs=outputs("OUTPUT0", "OUTPUT1")))
    statistics = client.get_inference_statistics("simple")
    assert len(statistics.model_stats) == 1
    status, message = refusal(lambda: client.get_inference_statistics("wrong_name"))
    assert status == "INVALID_ARGUMENT"
    assert "requested model 'wrong_name' is not available" in message


def test_infer_with_options(client: Any) -> None:
    """Headers, a deadline, compression, priority and a timeout are accepted together."""
    result = client.infer(
        "simple",
        pair(),
        outputs=outputs("OUTPUT0", "OUTPUT1"),
        client_timeout=WAIT_S,
        headers={"test": "1"},
        compression_algorithm="gzip",
        priority=1,
        timeout=10_000_000,
    )
    expect_sums(result)


def test_async_infer(client: Any) -> None:
    """Callbacks get their answers, or the error of the server."""
    answers: queue.Queue[Any] = queue.Queue(maxsize=4)
    for model in ("simple", "wrong_name"):
        client.async_infer(model, pair(), lambda result, error: answers.put(error or result))
        answer = answers.get(timeout=WAIT_S)
        if model == "simple":
            expect_sums(answer)
        else:
            assert "Request for unknown model: 'wrong_name'" in str(answer)


def test_versions(client: Any) -> None:
    """Versions 1 and 3 differ in their outputs, and no version means the latest."""
    for version, is_swapped in (("1", False), ("2", True), ("3", True), ("", True)):
        result = client.infer("onnx_int32_int32_int32", pair(), model_version=version)
        sums = result.as_numpy("OUTPUT1" if is_swapped else "OUTPUT0")
        np.testing.assert_array_equal(sums, FIRST + SECOND)
        assert result.get_response().model_version == (version or "3")


def test_string_infer(client: Any) -> None:
    """Numbers as text are added up and come back as text."""
    first, second = text(FIRST.ravel(), [1, 16]), text(SECOND.ravel(), [1, 16])
    expect_sums(client.infer("simple_string", pair(first, second, "BYTES")))


def test_string_input_is_checked(client: Any) -> None:
    """Too few and too many elements of text are refused in Triton's words."""
    first, second = text(range(16), [1, 16]), text(range(15), [1, 15])
    inputs = pair(first, second, "BYTES")
    inputs[1].set_shape([1, 16])
    status, message = refusal(lambda: client.infer("onnx_object_int32_int32", inputs))
    assert status == "INVALID_ARGUMENT"
    expected = "expected 16 string elements for inference input 'INPUT1'"
    assert expected in message, message


def test_binary_in_text(client: Any) -> None:
    """Elements with NUL bytes, and empty ones, come back as they were."""
    values = np.array([[b"\0a\0\0", b"", b"c" * 300]], object)
    result = client.infer("simple_identity", [tensor("INPUT0", values, "BYTES")])
    assert result.as_numpy("OUTPUT0").tolist() == values.tolist()


def test_optional_arguments(client: Any) -> None:
    """Arguments for the channel of one's own, keepalive among them, do no harm."""
    keepalive = grpcclient.KeepAliveOptions(
        keepalive_time_ms=10_000,
        keepalive_timeout_ms=5_000,
        keepalive_permit_without_calls=True,
        http2_max_pings_without_data=2,
    )
    arguments = [("grpc.max_send_message_length", 1 << 20), ("grpc.primary_user_agent", "mine")]
    for options in ({"keepalive_options": keepalive}, {"channel_args": arguments}):
        with connect(client.address, **options) as other:
            expect_sums(other.infer("simple", pair()))


def _raw(model: str, datatype: str, contents: list[dict[str, Any]]) -> Any:
    """Return a message with typed contents for INPUT0 and INPUT1, of 16 elements each."""
    inputs = []
    for name, content in zip(("INPUT0", "INPUT1"), contents, strict=True):
        tensor_type = service_pb2.ModelInferRequest.InferInputTensor
        inputs.append(tensor_type(name=name, datatype=datatype, shape=[1, 16]))
        inputs[-1].contents.MergeFrom(service_pb2.InferTensorContents(**content))
    wanted = service_pb2.ModelInferRequest.InferRequestedOutputTensor
    return service_pb2.ModelInferRequest(
        model_name=model,
        id="my request id",
        inputs=inputs,
        outputs=[wanted(name="OUTPUT0"), wanted(name="OUTPUT1")],
    )


def test_explicit_int_content(client: Any) -> None:
    """The bare stub sends INT32 in int_contents; answers are raw, by position."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(client._channel)
    contents = [{"int_contents": FIRST.ravel()}, {"int_contents": SECOND.ravel()}]
    answer = stub.ModelInfer(_raw("simple", "INT32", contents))
    assert answer.id == "my request id"
    sums, differences = (np.frombuffer(raw, np.int32) for raw in answer.raw_output_contents)
    np.testing.assert_array_equal(sums, (FIRST + SECOND).ravel())
    np.testing.assert_array_equal(differences, (FIRST - SECOND).ravel())


def test_explicit_int8_content(client: Any) -> None:
    """INT8 goes in int_contents too; a version that is no number is refused in Triton's words."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(client._channel)
    contents = [{"int_contents": FIRST.ravel()}, {"int_contents": SECOND.ravel()}]
    request = _raw("simple_int8", "INT8", contents)
    sums = np.frombuffer(stub.ModelInfer(request).raw_output_contents[0], np.int8)
    np.testing.assert_array_equal(sums, (FIRST + SECOND).ravel())
    request.model_version = "x"
    try:
        stub.ModelInfer(request)
    except grpc.RpcError as error:
        expected = "failed to get model version from specified version string 'x'"
        assert expected in str(error.details()), error
    else:
        raise AssertionError("the server accepted what it should refuse")


def test_explicit_byte_content(client: Any) -> None:
    """BYTES go in bytes_contents, and come back with a length before each element."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(client._channel)
    contents = [
        {"bytes_contents": [str(value).encode() for value in values.ravel()]}
        for values in (FIRST, SECOND)
    ]
    answer = stub.ModelInfer(_raw("simple_string", "BYTES", contents))
    sums = deserialize_bytes_tensor(answer.raw_output_contents[0]).astype(np.int64)
    np.testing.assert_array_equal(sums, (FIRST + SECOND).ravel())


def test_mixed_content(client: Any) -> None:
    """Typed contents beside raw ones are refused in Triton's words."""
    stub = service_pb2_grpc.GRPCInferenceServiceStub(client._channel)
    contents = [{"int_contents": FIRST.ravel()}, {"int_contents": SECOND.ravel()}]
    request = _raw("simple", "INT32", contents)
    request.raw_input_contents.append(FIRST.tobytes())
    try:
        stub.ModelInfer(request)
    except grpc.RpcError as error:
        expected = "contents field must not be specified when using raw_input_contents for 'INPUT0'"
        assert expected in str(error.details()), error
    else:
        raise AssertionError("the server accepted what it should refuse")


def test_classification(client: Any) -> None:
    """The best classes come as text, `value:index`, the best first."""
    values = np.array([[3, 1, 2] + [0] * 13], np.int32)
    wanted = outputs("OUTPUT0", class_count=2)
    result = client.infer("simple", pair(values, np.zeros((1, 16), np.int32)), outputs=wanted)
    assert result.as_numpy("OUTPUT0").tolist() == [[b"3:0", b"2:2"]]
