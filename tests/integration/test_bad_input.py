"""Bad input: a clear error, nothing lost, and the next request is served."""

import struct

import grpc
import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelInferRequest, ModelReadyRequest
from service.tensors import INT64
from tests.support.bad import BAD, Bad
from tests.support.requests import answer, one, raw_request, simple_request
from tests.support.stub import SERVICE, WAIT_S, Outgoing, Stub, refusal, unary

CASES = pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
_LEAKS = ("/home", "/tmp", "Traceback", ".py", "0x7", "service.", "onnxruntime", "Error(")  # noqa: S108


def assert_serves(stub: Stub) -> None:
    """Fail unless a good request is answered right."""
    response = stub.infer(simple_request(20, 3, request_id="good"), timeout=WAIT_S)
    assert response.id == "good"
    assert answer(response, "OUTPUT0").tolist() == [[23] * 16]
    assert answer(response, "OUTPUT1").tolist() == [[17] * 16]


@CASES
def test_bad_request_is_refused(stub: Stub, bad: Bad) -> None:
    """A bad request gets its code and text, and a good one after it is answered."""
    code, text = refusal(stub.infer, bad.make())
    assert code is bad.code, text
    assert bad.text in text
    assert_serves(stub)


@CASES
def test_text_of_an_error_is_fit_for_strangers(stub: Stub, bad: Bad) -> None:
    """A refusal is one printable line of at most 512 bytes that names nothing internal."""
    _, text = refusal(stub.infer, bad.make())
    assert text.isprintable()
    assert len(text.encode()) <= 512
    assert not [leak for leak in _LEAKS if leak in text]


def test_bad_requests_in_a_stream_leave_it_open(stub: Stub) -> None:
    """Each bad request of a stream gets error_message with its id, each good one its answer."""
    outgoing = Outgoing()
    replies = stub.stream(iter(outgoing), timeout=WAIT_S)
    for index, bad in enumerate(BAD):
        request = bad.make()
        if not bad.loses_id:
            request.id = f"bad {index}"
        outgoing.send(request, simple_request(index, 1, request_id=f"good {index}"))
        refused, good = next(replies), next(replies)
        assert bad.text in refused.error_message, bad.name
        if not bad.loses_id:
            assert refused.infer_response.id == f"bad {index}", bad.name
        assert good.error_message == ""
        assert good.infer_response.id == f"good {index}"
        assert answer(good.infer_response, "OUTPUT0")[0, 0] == index + 1
    outgoing.half_close()
    assert list(replies) == []
    assert replies.code() is grpc.StatusCode.OK


def test_refusal_before_scheduling_holds_the_id_alone(stub: Stub) -> None:
    """A stream's refusal carries the id and nothing else of the answer."""
    reply = next(stub.stream(iter([simple_request(model="nope", request_id="7")]), timeout=WAIT_S))
    assert reply.infer_response.id == "7"
    assert reply.infer_response.model_name == ""


def test_failure_in_execution_names_model_and_version(stub: Stub) -> None:
    """A stream's request that failed in execution says which model failed, and that it ended."""
    request = raw_request("gather", one(INT64, np.array([[99]])), request_id="7")
    reply = next(stub.stream(iter([request]), timeout=WAIT_S))
    response = reply.infer_response
    assert "inference failed for model 'gather'" in reply.error_message
    assert (response.id, response.model_name, response.model_version) == ("7", "gather", "1")
    assert response.parameters["triton_final_response"].bool_param


@pytest.mark.parametrize(
    "message",
    [
        b"\xff",
        b"\x0a",  # field 1, and no length
        b"\x0a\xff\xff\xff\xff\x0f",  # a length past the end
        b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # an overlong length
        b"\x08\x01" * 3 + b"\x0f",  # a wire type that does not exist
        b"\x0a\x02\xff\xfe",  # model_name is not UTF-8
        b"\x43" * 10_000,  # groups in groups
        b"\x00" * 100,
        bytes(range(256)) * 4096,
        simple_request().SerializeToString()[:-1],
    ],
    ids=lambda message: message[:6].hex(),
)
def test_message_that_is_no_request_is_refused(stub: Stub, message: bytes) -> None:
    """Bytes that are no ModelInferRequest are INVALID_ARGUMENT, and the server serves on."""
    code, text = refusal(stub.raw_infer, message)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "malformed request: not a ModelInferRequest" in text
    assert_serves(stub)


def test_message_that_is_no_request_leaves_a_stream_open(stub: Stub) -> None:
    """A stream answers bytes that are no request with error_message and goes on."""
    messages = [b"\xff\xff", simple_request(1, 1, request_id="after").SerializeToString()]
    first, second = stub.raw_stream(iter(messages), timeout=WAIT_S)
    assert "malformed request" in first.error_message
    assert second.infer_response.id == "after"


def test_request_cut_off_anywhere_is_refused_or_defined(stub: Stub) -> None:
    """A request truncated at any byte is refused with a code of ours; it never ends UNKNOWN."""
    whole = simple_request(request_id="id").SerializeToString()
    for end in range(len(whole)):
        code, text = refusal(stub.raw_infer, whole[:end])
        assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), (end, text)
    assert_serves(stub)


def test_count_bomb_is_refused_before_it_is_parsed(stub: Stub) -> None:
    """A million empty inputs in 2 MB are refused by their number."""
    code, text = refusal(stub.raw_infer, b"\x0a\x06simple" + b"\x2a\x00" * 1_000_000)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text == "too many inputs: at most 256 in one request"
    assert_serves(stub)


def test_unknown_fields_are_ignored(stub: Stub) -> None:
    """Fields of a newer protocol do no harm."""
    newer = b"\xfa\x3f\x05hello"  # field 1023
    response = stub.raw_infer(simple_request(2, 2).SerializeToString() + newer, timeout=WAIT_S)
    assert answer(response, "OUTPUT0")[0, 0] == 4


@pytest.mark.parametrize(
    "method",
    [
        f"{SERVICE}/NoSuchMethod",
        "/inference.NoSuchService/ModelInfer",
        "/grpc.channelz.v1.Channelz/GetServers",
        f"{SERVICE}/SystemSharedMemoryRegister",
    ],
)
def test_method_that_is_not_served_is_unimplemented(stub: Stub, method: str) -> None:
    """A method that this server does not have ends with UNIMPLEMENTED."""
    code, _ = refusal(unary(stub.channel, method), b"")
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert_serves(stub)


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelConfig", "ServerReady"])
def test_other_rpcs_refuse_what_is_no_message(stub: Stub, method: str) -> None:
    """Bytes that are no request of an RPC are INVALID_ARGUMENT and named."""
    code, text = refusal(unary(stub.channel, f"{SERVICE}/{method}"), b"\xff")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"malformed request: not a {method}Request message" in text


def test_version_of_model_ready_is_checked(stub: Stub) -> None:
    """ModelReady refuses a version that is none, although an unknown one is just not ready."""
    code, text = refusal(stub.model_ready, ModelReadyRequest(name="simple", version="x"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "version should be an integral value > 0" in text


def test_validation_errors_name_the_request(stub: Stub) -> None:
    """An error in the tensors starts with the id of the request, or says that there is none."""
    bad = simple_request(request_id="42")
    bad.inputs[0].datatype = "FP32"
    assert refusal(stub.infer, bad)[1].startswith("[request id: 42] inference input 'INPUT0'")
    bad.id = ""
    assert refusal(stub.infer, bad)[1].startswith("[request id: <id_unknown>] ")


def test_reserved_final_response_parameter_is_accepted(stub: Stub) -> None:
    """triton_enable_empty_final_response, which perf_analyzer always sends, does no harm."""
    request = simple_request(1, 1)
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    assert answer(stub.infer(request, timeout=WAIT_S), "OUTPUT0")[0, 0] == 2


def test_unknown_parameters_are_ignored(stub: Stub) -> None:
    """Parameters that mean nothing here are tolerated up to their limit."""
    request = simple_request(1, 1)
    for index in range(64):
        request.parameters[f"key{index}"].string_param = "value"
    assert answer(stub.infer(request, timeout=WAIT_S), "OUTPUT0")[0, 0] == 2


def test_dimensions_without_contents_allocate_nothing(stub: Stub) -> None:
    """A shape of 10^12 elements with four bytes of data is refused by its size."""
    request = ModelInferRequest(model_name="identity_fp32")
    request.inputs.add(name="X", datatype="FP32", shape=(1, 10**12))
    request.raw_input_contents.append(struct.pack("<f", 1.0))
    code, text = refusal(stub.infer, request)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "Expected 4000000000000, got 4" in text


def test_bad_member_leaves_its_batch_mates_alone(stub: Stub) -> None:
    """Of 32 requests at once, the one whose index is out of range fails and 31 are answered."""
    requests = [
        raw_request("gather", one(INT64, np.array([[99 if index == 13 else index % 8]])))
        for index in range(32)
    ]
    futures = [stub.infer.future(request, timeout=WAIT_S) for request in requests]
    for index, future in enumerate(futures):
        if index == 13:
            assert future.exception().code() is grpc.StatusCode.INTERNAL
        else:
            row = index % 8
            assert answer(future.result()).tolist() == [[[2.0 * row, 2.0 * row + 1]]]
