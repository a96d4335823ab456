"""A bundle is served as one request, and to its callers it is as if each had come alone."""

from unittest.mock import MagicMock

import numpy as np
import pytest

from service.pb.grpc_service_pb2 import ModelStreamInferResponse
from service.rpc.methods import STREAM_INFER
from service.rpc.served import ServedModel
from service.tensors import FP32
from service.transport.seam import Code
from tests.support.bench import occupy
from tests.support.bundle_rig import (
    ROW_BYTES,
    Exchange,
    assert_rows,
    calls_of,
    infer_message,
    reply,
    rig,
    wait,
)
from tests.support.bundles import FakeCall
from tests.support.fake import row
from tests.support.requests import one, raw_request
from tests.support.waiting import WAIT_S, eventually

ENDS_ON_ERROR = ("triton_grpc_error", "true")


def test_the_lane_learns_from_the_first_request() -> None:
    """What the lane is taught is the head, the sizes, and the rows of the largest batch."""
    with rig() as r:
        (lesson,) = r.lane.lessons
    request = raw_request("fake", one(FP32, np.zeros((1, 2), np.float32)))
    request.ClearField("raw_input_contents")
    assert lesson.head == request.SerializeToString()
    assert (lesson.sizes, lesson.rows, lesson.max_rows) == ((ROW_BYTES,), 1, 8)


@pytest.mark.parametrize("shape", [(9, 2), (2, 0)])
def test_what_cannot_be_bundled_is_not_taught(shape: tuple[int, int]) -> None:
    """More rows than a batch has, and contents without bytes, stay with the plain requests."""
    with rig() as r:
        r.made.backend.open()
        exchange = Exchange()
        request = raw_request("fake", one(FP32, np.zeros(shape, np.float32)))
        r.service.submit(request.SerializeToString(), None, exchange)
        r.service.flush()
        assert exchange.done.wait(WAIT_S)
        assert len(r.lane.lessons) == 1


def test_the_lane_forgets_with_the_plans() -> None:
    """When the plans of too many forms are dropped, the lane is not left with forms of its own."""
    with rig(queue_requests=1000) as r:
        r.made.backend.open()
        for index in range(512):  # besides the first
            request = raw_request("fake", one(FP32, np.zeros((1, 2), np.float32)))
            request.parameters[f"number {index}"].int64_param = 1
            r.service.submit(request.SerializeToString(), None, Exchange())
            r.service.flush()
        assert len(r.lane.lessons) == 1


def test_each_caller_gets_its_own_row() -> None:
    """A bundle runs as one batch, and is answered as every request alone would have been."""
    with rig() as r:
        bundle = r.bundle(3, 4, 5, ids=("a", "", "é"))
        calls = calls_of(bundle)
        r.made.backend.permit()
        r.serve(bundle)
        wait(*calls)
        assert r.made.backend.batches == [[3, 4, 5]]
    assert_rows(calls, 3, 4, 5)
    assert [reply(call).id for call in calls] == ["a", "", "é"]
    encoder = ServedModel(r.manager.find("fake")).encoder
    assert calls[0].replies == [encoder.unary("a", {"Y": row(6)["X"]})]


def test_streams_are_answered_by_ticket() -> None:
    """A message of a stream gets what a message alone gets, in its place."""
    with rig() as r:
        bundle = r.bundle(3, 4, ids=("a", ""), calls=[FakeCall(STREAM_INFER)] * 2)
        (call, _) = calls_of(bundle)
        r.made.backend.permit()
        r.serve(bundle)
        eventually(lambda: len(call.replies) == 2, "both are answered")
    encoder = ServedModel(r.manager.find("fake")).encoder
    assert call.tickets == [0, 1]
    assert call.replies == [
        encoder.stream("a", {"Y": row(6)["X"]}),
        encoder.stream("", {"Y": row(8)["X"]}),
    ]
    assert call.ends == []


def test_timings_come_with_the_answer() -> None:
    """The trailers of a bundle are whole microseconds in the queue and of its run."""
    with rig() as r:
        bundle = r.bundle(3)
        (call,) = calls_of(bundle)
        r.made.backend.permit()
        r.serve(bundle)
        wait(call)
        eventually(lambda: bundle.trailers, "it has been answered")
    queue_us, compute_us = bundle.trailers
    assert queue_us >= 0
    assert compute_us > 0


def test_bundles_and_plain_requests_share_a_batch() -> None:
    """Two bundles and a plain request that wait together run together, each with its own rows."""
    with rig() as r:
        occupy(r.made)
        first, second, exchange = r.bundle(3, 4), r.bundle(6), Exchange()
        calls = [*calls_of(first), *calls_of(second)]
        assert r.service.submit_bundle(first)
        r.service.submit(infer_message(5), None, exchange)
        r.serve(second)
        assert r.made.scheduler.queue_depth == 4
        r.made.backend.permit(2)
        wait(*calls)
        assert exchange.done.wait(WAIT_S)
        assert r.made.backend.batches[1:] == [[3, 4, 5, 6]]
    assert_rows(calls, 3, 4, 6)
    outputs = exchange.outcomes[0].outputs
    assert outputs is not None
    assert np.array_equal(outputs["Y"], row(10)["X"])
    assert r.outcomes()["OK"] == 3  # the plain ones are counted by their exchange


def test_a_poisonous_member_fails_alone() -> None:
    """Of a bundle one of whose requests cannot be run the others are answered."""
    with rig() as r:
        r.made.backend.poison = {4}
        bundle = r.bundle(3, 4, 5)
        calls = calls_of(bundle)
        r.made.backend.open()
        r.serve(bundle)
        wait(*calls)
        assert r.made.backend.batches == [[3, 4, 5], [3], [4], [5]]
        ((code, text),) = calls[1].ends
        assert code is Code.INTERNAL
        assert "error id" in text
        assert_rows([calls[0], calls[2]], 3, 5)
        eventually(lambda: r.outcomes().get("OK") == 2, "the others are counted")
    assert r.outcomes() == {"OK": 2, "INTERNAL": 1}
    totals = r.made.scheduler.stats.snapshot()
    assert totals.failed == 1
    assert totals.queue_ns.count == 1 + 2  # the teacher, and who was answered


def test_a_poisonous_member_harms_no_plain_request() -> None:
    """A plain request that ran with such a bundle is answered too."""
    with rig() as r:
        occupy(r.made)
        r.made.backend.poison = {4}
        bundle, exchange = r.bundle(3, 4), Exchange()
        calls = calls_of(bundle)
        r.service.submit(infer_message(5), None, exchange)
        r.serve(bundle)
        r.made.backend.open()
        wait(*calls)
        assert exchange.done.wait(WAIT_S)
    assert_rows(calls[:1], 3)
    assert exchange.outcomes[0].error is None
    assert [code for code, _ in calls[1].ends] == [Code.INTERNAL]


def test_inputs_that_cannot_be_copied_harm_no_batch_mate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the memory for a bundle its callers are told so, and a plain request is answered."""
    with rig() as r:
        occupy(r.made)
        bundle, exchange = r.bundle(3, 4), Exchange()
        monkeypatch.setattr(bundle, "input", MagicMock(side_effect=MemoryError))
        calls = calls_of(bundle)
        r.service.submit(infer_message(5), None, exchange)
        r.serve(bundle)
        r.made.backend.open()
        wait(*calls)
        assert exchange.done.wait(WAIT_S)
        assert r.made.backend.batches[1:] == [[5]]
    assert [[code for code, _ in call.ends] for call in calls] == [[Code.INTERNAL]] * 2
    assert exchange.outcomes[0].error is None
    assert r.outcomes() == {"INTERNAL": 2}


def test_a_backend_without_rows_for_all_fails_every_member() -> None:
    """Outputs that do not have the rows of the inputs are given to nobody."""
    with rig() as r:
        r.made.backend.breaks_contract = True
        bundle = r.bundle(3, 4)
        calls = calls_of(bundle)
        r.made.backend.open()
        r.serve(bundle)
        wait(*calls)
    assert [[code for code, _ in call.ends] for call in calls] == [[Code.INTERNAL]] * 2
    assert r.outcomes() == {"INTERNAL": 2}


def test_an_answer_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every caller whose answer is larger than a message can be is told its size."""
    monkeypatch.setattr("service.rpc.codec._MAX_REPLY_BYTES", 4096)
    with rig() as r:
        bundle = r.bundle(3, 4)
        calls = calls_of(bundle)
        r.made.backend.open()
        r.serve(bundle)
        wait(*calls)
        assert bundle.count == 0
    for call in calls:
        ((code, text),) = call.ends
        assert code is Code.INVALID_ARGUMENT
        assert "exceeds gRPC's byte size limit" in text
    assert r.outcomes()["INVALID_ARGUMENT"] == 2


class FailingStream:
    """Notes the requests of a stream that failed."""

    def __init__(self) -> None:
        self.failed: list[tuple[int, str, Code]] = []

    def fail(
        self, ticket: int, request_id: str, code: Code, text: str, served: ServedModel
    ) -> None:
        """Note one."""
        del text, served
        self.failed.append((ticket, request_id, code))


def test_a_failed_request_is_told_to_its_stream() -> None:
    """A stream that is known decides what becomes of a request of it that failed."""
    known = FailingStream()
    with rig(find_stream=lambda _: known) as r:
        r.made.backend.poison = {4}
        bundle = r.bundle(3, 4, ids=("a", "b"), calls=[FakeCall(STREAM_INFER)] * 2)
        (call, _) = calls_of(bundle)
        r.made.backend.open()
        r.serve(bundle)
        eventually(lambda: known.failed and call.replies, "both are answered")
    assert known.failed == [(1, "b", Code.INTERNAL)]
    assert call.tickets == [0]


@pytest.mark.parametrize("ends", [False, True])
def test_a_stream_that_nobody_keeps_is_told_itself(*, ends: bool) -> None:
    """A stream whose end is on its way gets the error in its place, or as its status."""
    with rig() as r:
        r.made.backend.poison = {4}
        call = FakeCall(STREAM_INFER, metadata=(ENDS_ON_ERROR,) if ends else ())
        bundle = r.bundle(4, ids=("b",), calls=[call])
        r.made.backend.open()
        r.serve(bundle)
        wait(call)
    if ends:
        assert [code for code, _ in call.ends] == [Code.INTERNAL]
        assert call.replies == []
        return
    (only,) = call.replies
    told = ModelStreamInferResponse.FromString(only)
    assert "error id" in told.error_message
    assert told.infer_response.id == "b"
    assert (call.tickets, call.ends) == ([0], [])
