"""Right answers: every datatype, raw and typed, unary and in streams, alone and in batches."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelInferRequest, ModelStatistics
from service.tensors import BF16, DATATYPES, FP16, FP32, FP64, INT64, Datatype
from tests.support import models
from tests.support.bad import opaque_bytes
from tests.support.requests import (
    answer,
    one,
    raw_request,
    same,
    simple_request,
    typed_request,
)
from tests.support.servers import RunningServer
from tests.support.stub import WAIT_S, Stub
from tests.support.waiting import eventually

TYPED = [datatype for datatype in DATATYPES if datatype.contents is not None]


def identity_of(datatype: Datatype) -> str:
    """Return the name of the identity for a datatype."""
    return f"identity_{datatype.wire.lower()}"


@pytest.mark.parametrize("datatype", DATATYPES, ids=str)
def test_raw_tensor_comes_back(stub: Stub, datatype: Datatype) -> None:
    """Raw contents of every datatype come back bit for bit, unary and in a stream."""
    array = models.sample(np.random.default_rng(1), datatype, (3, 5))
    request = raw_request(identity_of(datatype), one(datatype, array), request_id="7")
    (streamed,) = stub.stream(iter([request]), timeout=WAIT_S)
    for response in (stub.infer(request, timeout=WAIT_S), streamed.infer_response):
        assert same(answer(response), array, datatype)
        assert (response.id, response.outputs[0].datatype) == ("7", datatype.wire)
    assert streamed.infer_response.parameters["triton_final_response"].bool_param


@pytest.mark.parametrize("datatype", TYPED, ids=str)
def test_typed_tensor_comes_back_raw(stub: Stub, datatype: Datatype) -> None:
    """Typed contents give the same answer as raw ones, and answers are always raw."""
    array = models.sample(np.random.default_rng(2), datatype, (2, 4))
    request = typed_request(identity_of(datatype), one(datatype, array))
    (streamed,) = stub.stream(iter([request]), timeout=WAIT_S)
    for response in (stub.infer(request, timeout=WAIT_S), streamed.infer_response):
        assert same(answer(response), array, datatype)
        assert not response.outputs[0].HasField("contents")


@pytest.mark.parametrize("datatype", [FP16, FP32, FP64, BF16], ids=str)
def test_special_numbers_keep_their_bits(stub: Stub, datatype: Datatype) -> None:
    """NaN, infinities, denormals and minus zero are numbers like any other."""
    values = np.array([[np.nan, np.inf, -np.inf, 1e-40, -0.0, 0.0, 1e-320, 65504.0]])
    if datatype is BF16:
        array = (values.astype("<f4").view("<u4") >> 16).astype("<u2")
    else:
        array = values.astype(datatype.numpy)
    response = stub.infer(raw_request(identity_of(datatype), one(datatype, array)), timeout=WAIT_S)
    assert same(answer(response), array, datatype)


def test_bytes_are_opaque(stub: Stub) -> None:
    """Texts with NUL, without characters, of other scripts and of 100 KB come back unchanged."""
    datatype, array = opaque_bytes()
    response = stub.infer(raw_request("identity_bytes", one(datatype, array)), timeout=WAIT_S)
    assert answer(response).tolist() == array.tolist()


def test_any_byte_but_zero_is_true(stub: Stub) -> None:
    """BOOL bytes other than 0 and 1 are taken for true."""
    request = raw_request("identity_bool", one(DATATYPES[0], np.ones((1, 4), np.bool_)))
    request.raw_input_contents[0] = b"\x00\x01\x02\xff"
    response = stub.infer(request, timeout=WAIT_S)
    assert response.raw_output_contents[0] == b"\x00\x01\x01\x01"


def test_no_elements_are_a_tensor(stub: Stub) -> None:
    """A dynamic axis may be empty: the answer has the same shape and no bytes."""
    array = np.zeros((2, 0), np.float32)
    response = stub.infer(raw_request("identity_fp32", one(FP32, array)), timeout=WAIT_S)
    assert list(response.outputs[0].shape) == [2, 0]
    assert response.raw_output_contents == [b""]


def test_scalar_model(stub: Stub) -> None:
    """A tensor of rank 0 is one element."""
    response = stub.infer(
        raw_request("scalar", one(FP32, np.array(41.0, np.float32))), timeout=WAIT_S
    )
    assert list(response.outputs[0].shape) == []
    assert answer(response) == 42.0


def test_model_with_a_fixed_batch(stub: Stub) -> None:
    """A model that takes two rows and no other number gets them as they are."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    response = stub.infer(raw_request("fixed", one(FP32, array)), timeout=WAIT_S)
    assert answer(response).tolist() == array.tolist()


def test_outputs_come_in_the_order_asked_for(stub: Stub) -> None:
    """Requested outputs alone are answered, in the order of the request."""
    request = simple_request(5, 3)
    for name in ("OUTPUT1", "OUTPUT0"):
        request.outputs.add(name=name)
    response = stub.infer(request, timeout=WAIT_S)
    assert [output.name for output in response.outputs] == ["OUTPUT1", "OUTPUT0"]
    assert answer(response, "OUTPUT1")[0, 0] == 2
    assert answer(response, "OUTPUT0")[0, 0] == 8
    del request.outputs[1]
    assert [out.name for out in stub.infer(request, timeout=WAIT_S).outputs] == ["OUTPUT1"]


def test_answer_names_model_and_version(stub: Stub) -> None:
    """The version in the answer is the one that computed it, also when none was asked for."""
    for version in ("", "1"):
        response = stub.infer(simple_request(version=version), timeout=WAIT_S)
        assert (response.model_name, response.model_version) == ("simple", "1")


def test_answer_tells_its_times(stub: Stub) -> None:
    """Trailing metadata says how long a request waited and was computed, in microseconds."""
    _, call = stub.infer.with_call(simple_request(), timeout=WAIT_S)
    trailers = dict(call.trailing_metadata())
    assert int(trailers["penstock-queue-us"]) >= 0
    assert int(trailers["penstock-compute-us"]) >= 0


@pytest.mark.parametrize("rows", [9, 16, 100])
def test_more_rows_than_a_batch_are_split_and_joined(stub: Stub, rows: int) -> None:
    """A request with more rows than max_batch_size gets one answer with all of them in order."""
    request = simple_request(rows=rows)
    first = np.arange(rows * 16, dtype=np.int32).reshape(rows, 16)
    request.raw_input_contents[0] = first.tobytes()
    response = stub.infer(request, timeout=WAIT_S)
    assert np.array_equal(answer(response, "OUTPUT0"), first + 2)


def test_row_in_any_batch_equals_the_row_alone(stub: Stub) -> None:
    """The digits of 32 requests at once are those of each alone, within a stated tolerance."""
    rows = np.random.default_rng(3).standard_normal((32, 784)).astype(np.float32)
    requests = [raw_request("mlp", one(FP32, row[np.newaxis])) for row in rows]
    alone = [answer(stub.infer(request, timeout=WAIT_S)) for request in requests]
    together = [stub.infer.future(request, timeout=WAIT_S) for request in requests]
    for future, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(answer(future.result()), expected, rtol=1e-4, atol=1e-5)


def test_waiting_requests_are_batched(server: RunningServer, stub: Stub) -> None:
    """Requests that come while the model runs share the next run, and get their own rows."""
    before = stub.stats_of("slow")
    occupying = stub.infer.future(_steps(10_000_000), timeout=WAIT_S)
    eventually(lambda: server.runs("slow"), "the model is occupied")
    waiting = [stub.infer.future(_steps(value), timeout=WAIT_S) for value in range(20)]
    eventually(lambda: server.queue_depth("slow") == 20, "all wait")
    occupying.cancel()
    for value, future in enumerate(waiting):
        assert answer(future.result()).tolist() == [[value]]
    after = stub.stats_of("slow")
    assert _sizes(after) - _sizes(before) == Counter({20: 1})
    assert after.execution_count - before.execution_count == 1
    assert after.inference_count - before.inference_count == 20


def test_batches_form_under_load(server: RunningServer, stub: Stub) -> None:
    """Sixteen clients at once are served in fewer runs than requests, each with its own answer.

    Together they have fewer calls in progress than the server allows.
    """
    before = stub.stats_of("mlp")
    rows = np.random.default_rng(4).standard_normal((16, 784)).astype(np.float32)
    expected = [answer(stub.infer(raw_request("mlp", one(FP32, row[None])))) for row in rows]
    start = threading.Barrier(16)

    def client(index: int) -> None:
        request = raw_request("mlp", one(FP32, rows[index][np.newaxis]))
        with server.stub() as own:
            start.wait(WAIT_S)
            for future in [own.infer.future(request, timeout=WAIT_S) for _ in range(30)]:
                np.testing.assert_allclose(
                    answer(future.result()), expected[index], rtol=1e-4, atol=1e-5
                )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))
    after = stub.stats_of("mlp")
    assert after.inference_count - before.inference_count == 16 + 16 * 30
    assert after.execution_count - before.execution_count < 16 * 30
    assert max(batch.batch_size for batch in after.batch_stats) > 1


def test_coupled_rows_are_never_batched(stub: Stub) -> None:
    """A model whose rows depend on each other answers concurrent requests as if alone."""
    rows = np.random.default_rng(5).standard_normal((8, 1, 4)).astype(np.float32)
    futures = [
        stub.infer.future(raw_request("coupled", one(FP32, row)), timeout=WAIT_S) for row in rows
    ]
    for future in futures:
        assert answer(future.result()).tolist() == [[1.0] * 4]  # softmax over one row
    assert {batch.batch_size for batch in stub.stats_of("coupled").batch_stats} == {1}


def test_different_shapes_at_once(stub: Stub) -> None:
    """Requests whose rows differ in length are answered each for itself."""
    lengths = [1, 5, 3, 5, 1, 8, 3, 2] * 4
    futures = [
        stub.infer.future(
            raw_request("two_axes", one(FP32, np.ones((1, length), np.float32))), timeout=WAIT_S
        )
        for length in lengths
    ]
    assert [answer(future.result())[0, 0] for future in futures] == lengths


def _sizes(statistics: ModelStatistics) -> Counter[int]:
    return Counter({b.batch_size: b.compute_infer.count for b in statistics.batch_stats})


def _steps(count: int) -> ModelInferRequest:
    return raw_request("slow", one(INT64, np.array([[count]])))
