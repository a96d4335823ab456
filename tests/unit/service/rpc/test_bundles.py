"""A bundle is served as one request, and to its callers it is as if each had come alone."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast
from unittest.mock import MagicMock

import numpy as np
import pytest

from service.inference.model import Model
from service.inference.policy import BatchPolicy
from service.inference.request import Outcome
from service.lifecycle.manager import Manager
from service.pb.grpc_service_pb2 import ModelInferResponse, ModelStreamInferResponse
from service.pb.model_config_pb2 import ModelConfig
from service.rpc.dispatch import INFER, STREAM_INFER, Dispatcher
from service.rpc.infer import InferService
from service.rpc.served import ServedModel
from service.tensors import FP32
from service.transport.seam import Arity, Code, Event, Kind
from tests.support.bench import Bench, bench, occupy
from tests.support.bundles import FakeBundle, FakeCall, FakeLane, Member
from tests.support.fake import row
from tests.support.requests import answer, one, raw_request
from tests.support.waiting import WAIT_S, eventually

ARITIES = {INFER: Arity.UNARY, STREAM_INFER: Arity.STREAM}
ROW_BYTES = 8
ENDS_ON_ERROR = ("triton_grpc_error", "true")


class OneModel:
    """A manager with one model. A model named "fault" raises what nobody expects."""

    def __init__(self, model: Model) -> None:
        self.generation = 1
        self._model = model

    def find(self, name: str, version: str = "") -> Model:
        """Return the model."""
        del version
        if name == "fault":
            raise RuntimeError("a fault of ours")
        return self._model


class Exchange:
    """Where the outcome of a plain request goes."""

    served: ServedModel
    request_id = ""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.done = threading.Event()

    def ended(self, outcome: Outcome) -> None:
        """Note the outcome."""
        self.outcomes.append(outcome)
        self.done.set()


@dataclass
class Rig:
    """An infer service with one model and a lane that was taught one form of request."""

    made: Bench
    service: InferService
    manager: OneModel
    lane: FakeLane

    @property
    def plan(self) -> Any:
        """What the lane was taught."""
        return self.lane.lessons[-1].plan

    def bundle(
        self,
        *values: float,
        ids: Sequence[str] = (),
        calls: Sequence[FakeCall] = (),
        deadlines: Sequence[float] = (),
    ) -> FakeBundle:
        """Make a bundle of requests of one row each, all elements of which are the value."""
        found = list(calls) or [FakeCall() for _ in values]
        for call, deadline in zip(found, deadlines, strict=False):
            call.deadline = self.made.clock.now + deadline
        members = [
            Member(
                call,
                (np.full(2, value, np.float32).tobytes(),),
                at,
                ids[at] if ids else "",
                message(value),
            )
            for at, (value, call) in enumerate(zip(values, found, strict=True))
        ]
        return FakeBundle(self.plan, members)

    def serve(self, *bundles: FakeBundle) -> None:
        """Submit bundles as one burst."""
        for one_of_them in bundles:
            assert self.service.submit_bundle(one_of_them)
        self.service.flush()

    def outcomes(self) -> dict[str, int]:
        """Return how many requests ended with each code, the first ones apart."""
        outcomes = self.made.scheduler.stats.snapshot().outcomes
        return {code: count for code, count in outcomes.items() if count}


def message(value: float, model: str = "fake") -> bytes:
    """Return a request of one row."""
    array = np.full((1, 2), value, np.float32)
    return raw_request(model, one(FP32, array)).SerializeToString()


@contextmanager
def rig(
    *,
    default_deadline_s: float = 0.0,
    find_stream: Callable[[Any], Any] = lambda _: None,
    **settings: Any,
) -> Iterator[Rig]:
    """Serve one model, whose backend is shut after the request that taught the lane."""
    settings.setdefault("batch", BatchPolicy(max_rows=8))
    with bench(**settings) as made:
        scheduler = made.scheduler
        model = Model("fake", "1", made.backend.signature, ModelConfig(), scheduler, "cpu")
        manager = OneModel(model)
        service = InferService(cast("Manager[Model]", manager), default_deadline_s)
        lane = FakeLane()
        service.use_lane(lane, ARITIES.__getitem__, find_stream)
        made.backend.permit()
        teacher = Exchange()
        service.submit(message(1), None, teacher)
        service.flush()
        assert teacher.done.wait(WAIT_S)
        eventually(lambda: not scheduler.batches_in_progress, "the first request has left")
        made.backend.batches.clear()
        yield Rig(made, service, manager, lane)


def calls_of(bundle: FakeBundle) -> list[FakeCall]:
    """Return the calls of a bundle that has not been answered."""
    return [call for call, _, _ in bundle.members()]


def wait(*calls: FakeCall) -> None:
    """Wait until each call was answered."""
    eventually(lambda: all(call.replies or call.ends for call in calls), "every call is answered")


def reply(call: FakeCall) -> ModelInferResponse:
    """Return the only answer of a unary call."""
    assert call.ends == [(Code.OK, "")]
    (only,) = call.replies
    return ModelInferResponse.FromString(only)


def assert_rows(calls: Sequence[FakeCall], *values: float) -> None:
    """Fail unless each unary call was answered once, with twice its value."""
    for call, value in zip(calls, values, strict=True):
        assert np.array_equal(answer(reply(call)), row(value * 2)["X"])


def test_the_lane_learns_from_the_first_request() -> None:
    """What the lane is taught is the head, the sizes, and the rows of the largest batch."""
    with rig() as r:
        (lesson,) = r.lane.lessons
    request = raw_request("fake", one(FP32, np.zeros((1, 2), np.float32)))
    request.ClearField("raw_input_contents")
    assert lesson.head == request.SerializeToString()
    assert (lesson.sizes, lesson.rows, lesson.max_rows) == ((ROW_BYTES,), 1, 8)


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
        r.service.submit(message(5), None, exchange)
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
        r.service.submit(message(5), None, exchange)
        r.serve(bundle)
        r.made.backend.open()
        wait(*calls)
        assert exchange.done.wait(WAIT_S)
    assert_rows(calls[:1], 3)
    assert exchange.outcomes[0].error is None
    assert [code for code, _ in calls[1].ends] == [Code.INTERNAL]


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


def test_who_leaves_the_queue_is_not_computed() -> None:
    """A caller who leaves while the bundle waits frees its places, and its row is not run."""
    with rig() as r:
        occupy(r.made)
        bundle = r.bundle(3, 4, 5)
        calls = calls_of(bundle)
        r.serve(bundle)
        assert r.made.scheduler.queue_depth == 3
        calls[1].has_left = True
        r.service.shrink(bundle)
        assert r.made.scheduler.queue_depth == 2
        r.made.backend.permit(2)
        wait(calls[0], calls[2])
        assert r.made.backend.batches[1:] == [[3, 5]]
    assert_rows([calls[0], calls[2]], 3, 5)
    assert r.outcomes() == {"OK": 2, "CANCELLED": 1}


def test_who_leaves_unnoticed_is_not_computed() -> None:
    """Who has left when the bundle is run is taken out, though nobody has said so yet."""
    with rig() as r:
        occupy(r.made)
        bundle = r.bundle(3, 4)
        calls = calls_of(bundle)
        r.serve(bundle)
        calls[0].has_left = True
        r.made.backend.permit(2)
        wait(calls[1])
        assert r.made.backend.batches[1:] == [[4]]
    assert_rows(calls[1:], 4)
    assert r.outcomes() == {"OK": 1, "CANCELLED": 1}


def test_who_leaves_during_the_run_shifts_no_rows() -> None:
    """A caller who leaves while the bundle runs gets nothing, and the others their own rows."""
    with rig() as r:
        bundle = r.bundle(3, 4, 5)
        calls = calls_of(bundle)
        r.serve(bundle)
        r.made.backend.wait_for_batches(1)
        calls[0].has_left = True
        r.service.shrink(bundle)
        r.made.backend.permit()
        wait(*calls[1:])
        assert r.made.backend.interrupted == 0
    assert_rows(calls[1:], 4, 5)
    assert calls[0].replies == []
    assert r.outcomes() == {"OK": 2, "CANCELLED": 1}


def test_a_run_that_nobody_waits_for_is_stopped() -> None:
    """When the last caller of a bundle has left its run is interrupted."""
    with rig() as r:
        bundle = r.bundle(3, 4)
        calls = calls_of(bundle)
        r.serve(bundle)
        r.made.backend.wait_for_batches(1)
        for call in calls:
            call.has_left = True
        r.service.shrink(bundle)
        eventually(lambda: r.made.backend.interrupted == 1, "the run was stopped")
        eventually(lambda: not r.made.scheduler.batches_in_progress, "the run has ended")
        assert bundle.count == 0
    assert r.outcomes() == {"CANCELLED": 2}


def test_a_bundle_that_all_have_left_takes_no_place() -> None:
    """When the last caller leaves while the bundle waits, its places are free at once."""
    with rig() as r:
        occupy(r.made)
        bundle = r.bundle(3, 4)
        r.serve(bundle)
        for call in calls_of(bundle):
            call.has_left = True
        r.service.shrink(bundle)
        assert r.made.scheduler.queue_depth == 0
        r.service.shrink(bundle)  # told again, when it is gone
        r.made.backend.permit()
    assert r.made.backend.batches == [[100]]
    assert r.outcomes() == {"CANCELLED": 2}


def test_the_lane_tells_of_calls_that_were_finished_here() -> None:
    """Bundles that shrank because a stream was ended by an error are freed likewise."""
    with rig() as r:
        occupy(r.made)
        bundle = r.bundle(3, 4)
        r.serve(bundle)
        calls_of(bundle)[0].has_left = True
        r.lane.left = [bundle]
        r.service.free_shrunk()
        assert r.made.scheduler.queue_depth == 1
        r.made.backend.open()


def test_a_full_queue_turns_a_bundle_back() -> None:
    """A bundle takes as many places as it has requests; one that finds too few is not touched."""
    with rig(queue_requests=5) as r:
        occupy(r.made)
        first, second = r.bundle(3, 4, 5), r.bundle(6, 7, 8)
        calls = calls_of(first)
        r.serve(first)
        assert not r.service.submit_bundle(second)
        assert r.made.scheduler.queue_depth == 3
        assert [event.message for event in second.events()] == [message(6), message(7), message(8)]
        calls[0].has_left = True
        r.service.shrink(first)
        third = r.bundle(6, 7, 8)
        calls += calls_of(third)
        r.serve(third)
        assert r.made.scheduler.queue_depth == 5
        r.made.backend.open()
        wait(*calls[1:])
    assert_rows(calls[1:], 4, 5, 6, 7, 8)


def test_a_bundle_counts_its_bytes() -> None:
    """The bound on bytes that wait knows what is in a bundle, and what is no longer."""
    with rig(queue_bytes=5 * ROW_BYTES) as r:
        occupy(r.made)
        first, second = r.bundle(3, 4, 5), r.bundle(6, 7, 8)
        calls = [*calls_of(first), *calls_of(second)]
        r.serve(first)
        assert not r.service.submit_bundle(second)
        calls[0].has_left = True
        r.service.shrink(first)
        r.serve(second)
        r.made.backend.open()
        wait(*calls[1:])
    assert_rows(calls[1:], 4, 5, 6, 7, 8)


def test_the_last_deadline_ends_a_bundle_in_the_queue() -> None:
    """While one caller of a bundle may still wait it is run; after the last deadline it is not."""
    with rig() as r:
        occupy(r.made)
        alive, over = r.bundle(3, 4, deadlines=(1, 10)), r.bundle(5, 6, deadlines=(1, 2))
        living, late = calls_of(alive), calls_of(over)
        r.serve(alive, over)
        r.made.clock.advance(5)
        r.made.backend.permit(2)
        wait(*living, *late)
        assert r.made.backend.batches[1:] == [[3, 4]]
    assert_rows(living, 3, 4)
    assert [[code for code, _ in call.ends] for call in late] == [[Code.DEADLINE_EXCEEDED]] * 2
    assert r.outcomes() == {"OK": 2, "DEADLINE_EXCEEDED": 2}
    assert r.made.scheduler.stats.snapshot().failed == 2


def test_the_first_deadline_decides_on_admission() -> None:
    """A bundle one of whose callers cannot be served in time is turned back."""
    with rig() as r:
        r.made.backend.open()
        for value in range(8):  # so that the cost of a run is known
            r.made.submit(value)
            r.made.outcome(value)
        r.made.backend.shut()
        r.made.backend.batches.clear()
        occupy(r.made)
        r.made.submit(50)
        assert not r.service.submit_bundle(r.bundle(3, 4, deadlines=(0, 100)))
        bundle = r.bundle(3, 4, deadlines=(100, 100))
        calls = calls_of(bundle)
        r.serve(bundle)
        r.made.backend.open()
        wait(*calls)


def test_a_default_deadline_holds_for_bundles() -> None:
    """Callers without a deadline get that of the server, and others keep theirs."""
    with rig(default_deadline_s=3600) as r:
        occupy(r.made)
        without, with_one = r.bundle(3), r.bundle(4, deadlines=(7,))
        r.serve(without, with_one)
        assert without.owner.deadline > r.made.clock.now
        assert with_one.owner.deadline == r.made.clock.now + 7
        assert without.owner.deadline != with_one.owner.deadline
        r.made.backend.open()


def test_a_plan_that_is_out_of_date_is_judged_anew() -> None:
    """After a change of the models a bundle is turned back, and the lane is taught again."""
    with rig() as r:
        r.manager.generation += 1
        assert not r.service.submit_bundle(r.bundle(3))
        r.made.backend.open()
        exchange = Exchange()
        r.service.submit(message(3), None, exchange)
        r.service.flush()
        assert exchange.done.wait(WAIT_S)
        assert len(r.lane.lessons) == 1  # the one from before was forgotten
        bundle = r.bundle(4)
        calls = calls_of(bundle)
        r.serve(bundle)
        wait(*calls)


def test_a_server_that_drains_takes_no_bundle() -> None:
    """While the server drains a bundle is turned back, so that each caller is told."""
    with rig() as r:
        r.service.draining = True
        bundle = r.bundle(3)
        assert not r.service.submit_bundle(bundle)
        assert bundle.count == 1


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


def closes(r: Rig) -> None:
    """Close the model with no time for what runs."""
    closing = threading.Thread(target=r.made.scheduler.close, args=(0.0,))
    closing.start()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    r.made.backend.closed = 0  # the bench closes it again


def test_closing_ends_a_bundle_that_runs() -> None:
    """A bundle whose run outlasts the patience of a shutdown is answered once, and stopped."""
    with rig() as r:
        bundle = r.bundle(3, 4)
        calls = calls_of(bundle)
        r.serve(bundle)
        r.made.backend.wait_for_batches(1)
        closes(r)
        assert r.made.backend.interrupted == 1
    assert [[code for code, _ in call.ends] for call in calls] == [[Code.UNAVAILABLE]] * 2
    assert r.outcomes() == {"UNAVAILABLE": 2}


def test_closing_ends_a_bundle_that_is_run_one_by_one() -> None:
    """Members of a failed bundle that still wait for their own run are answered once as well."""
    with rig() as r:
        r.made.backend.poison = {3}
        bundle = r.bundle(3, 4, 5)
        calls = calls_of(bundle)
        r.made.backend.permit(2)  # all of them, and the first by itself
        r.serve(bundle)
        r.made.backend.wait_for_batches(3)
        closes(r)
    codes = [[code for code, _ in call.ends] for call in calls]
    assert codes == [[Code.INTERNAL], [Code.UNAVAILABLE], [Code.UNAVAILABLE]]
    assert r.made.backend.batches == [[3, 4, 5], [3], [4]]


def test_who_leaves_a_bundle_that_is_run_one_by_one_stops_its_run() -> None:
    """The run of a single member is interrupted when its caller leaves; the next one is run."""
    with rig() as r:
        r.made.backend.poison = {3}
        bundle = r.bundle(3, 4, 5)
        parts: list[FakeBundle] = []
        split = bundle.split

        def noted() -> Sequence[FakeBundle]:
            parts.extend(split())
            return parts

        bundle.split = noted  # type: ignore[method-assign]
        calls = calls_of(bundle)
        r.made.backend.permit(2)
        r.serve(bundle)
        r.made.backend.wait_for_batches(3)
        calls[1].has_left = True
        r.service.shrink(parts[1])
        r.made.backend.permit()
        wait(calls[2])
        assert r.made.backend.interrupted == 1
    assert_rows(calls[2:], 5)
    assert r.outcomes() == {"OK": 1, "INTERNAL": 1, "CANCELLED": 1}


def cheap(r: Rig, *bundles: FakeBundle) -> None:
    """Let the scheduler see that batches of as many rows are cheap, then shut the backend."""
    r.made.backend.open()
    for bundle in bundles:
        for _ in range(1000):  # a busy machine may make some runs slow
            if r.made.scheduler.runs_inline(r.plan.plan.key, bundle.count):
                break
            again = r.bundle(*[0.0] * bundle.count)
            calls = calls_of(again)
            r.serve(again)
            wait(*calls)
        assert r.made.scheduler.runs_inline(r.plan.plan.key, bundle.count)
    eventually(lambda: not r.made.scheduler.batches_in_progress, "all is quiet")
    r.made.backend.batches.clear()


def test_what_is_cheap_is_served_at_once() -> None:
    """A bundle with nothing ahead of it is answered before `submit_bundle` returns."""
    with rig() as r:
        bundle = r.bundle(3, 4)
        calls = calls_of(bundle)
        cheap(r, bundle)
        assert r.service.submit_bundle(bundle)
        assert_rows(calls, 3, 4)
        assert r.made.scheduler.queue_depth == r.made.scheduler.batches_in_progress == 0


def test_what_is_not_known_to_be_cheap_is_for_the_threads() -> None:
    """A bundle of a size that was not run before is submitted instead."""
    with rig() as r:
        bundle = r.bundle(3, 4)
        assert r.service.submit_bundle(bundle)
        assert r.made.scheduler.queue_depth == 2
        r.made.backend.open()
        r.service.flush()


def test_what_is_cheap_waits_its_turn() -> None:
    """A cheap bundle is not run here while another batch runs, or while something waits."""
    with rig() as r:
        running, waiting = r.bundle(3), r.bundle(4)
        calls = [*calls_of(running), *calls_of(waiting)]
        cheap(r, running)
        r.made.backend.shut()
        occupy(r.made)
        assert r.service.submit_bundle(running)  # a batch runs
        assert r.made.scheduler.queue_depth == 1
        r.service.flush()
        r.made.backend.open()
        wait(calls[0])
        eventually(lambda: not r.made.scheduler.batches_in_progress, "all is quiet")
        r.made.backend.batches.clear()
        exchange = Exchange()
        r.service.submit(message(7), None, exchange)  # deferred: it waits for the flush
        assert r.service.submit_bundle(waiting)
        assert r.made.backend.batches == []
        r.service.flush()
        wait(calls[1])
        assert r.made.backend.batches[0][0] == 7


def test_a_closed_model_serves_no_bundle() -> None:
    """A cheap bundle for a model that was closed is turned back and not run."""
    with rig() as r:
        bundle = r.bundle(3)
        cheap(r, bundle)
        closes(r)
        assert not r.service.submit_bundle(bundle)
        assert r.made.backend.batches == []
        assert bundle.count == 1


class OneBurst:
    """A transport that gives one burst and is closed."""

    name = "fake"
    lane = None

    def __init__(self, *events: Event) -> None:
        self._events = list(events)
        self.closed = False

    def take(self, max_events: int, timeout: float | None) -> list[Event]:
        """Return the burst."""
        del max_events, timeout
        self.closed = True
        return self._events


def test_a_fault_in_one_member_strands_no_other() -> None:
    """Of a bundle that is turned back each request is judged, whatever becomes of another."""
    with rig() as r:
        calls = [FakeCall() for _ in range(3)]
        messages = [message(3), message(4, model="fault"), message(5)]
        members = [
            Member(call, (), message=text) for call, text in zip(calls, messages, strict=True)
        ]
        bundle = FakeBundle(r.plan, members)
        r.manager.generation += 1
        r.made.backend.open()
        dispatcher = Dispatcher(MagicMock(), MagicMock(), r.service, reflection=False)
        burst = OneBurst(Event(Kind.BUNDLE, cast("Any", None), bundle=cast("Any", bundle)))
        dispatcher.start(cast("Any", burst))
        wait(*calls)
        dispatcher.join(WAIT_S)
    assert [[code for code, _ in call.ends] for call in calls] == [
        [Code.OK], [Code.INTERNAL], [Code.OK],
    ]  # fmt: skip


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
