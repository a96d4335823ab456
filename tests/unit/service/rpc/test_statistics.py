"""ModelStatistics: counts and durations of a model add up, whatever became of its requests."""

from typing import Any, cast

from service.pb.grpc_service_pb2 import (
    ModelStatistics,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
)
from service.rpc.server_info import ServerInfo
from service.rpc.unary_infer import UnaryInfer
from service.transport.seam import Code
from tests.support.bench import occupy
from tests.support.bundle_rig import Rig, infer_message, rig, wait
from tests.support.bundles import FakeCall


class Served:
    """What ServerInfo asks of a manager."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def servables(self) -> list[Any]:
        """Return the only model."""
        return [self._rig.manager.find("fake")]


def statistics(r: Rig) -> ModelStatistics:
    """Return the statistics of the only model."""
    info = ServerInfo(cast("Any", Served(r)), "penstock", lambda: False)
    message = info.statistics(ModelStatisticsRequest(name="fake").SerializeToString())
    (only,) = ModelStatisticsResponse.FromString(message).model_stats
    return only


def ask(r: Rig, unary: UnaryInfer, *values: float) -> list[FakeCall]:
    """Ask for each value, as one burst."""
    calls = [FakeCall() for _ in values]
    for call, value in zip(calls, values, strict=True):
        unary.request(cast("Any", call), infer_message(value))
    r.service.flush()
    return calls


def test_what_succeeds_adds_up() -> None:
    """A success is queue and computing; a batch counts once by its size, and for each request."""
    with rig() as r:
        before = statistics(r)
        occupy(r.made)
        calls = ask(r, UnaryInfer(r.service), 3, 4, 5)
        r.made.backend.open()
        wait(*calls)
        after = statistics(r)
    infer = after.inference_stats
    assert infer.success.count - before.inference_stats.success.count == 4
    parts = (infer.compute_input, infer.compute_infer, infer.compute_output)
    assert {part.count for part in (infer.queue, *parts)} == {infer.success.count}
    assert infer.success.ns == infer.queue.ns + sum(part.ns for part in parts)
    assert infer.fail.count == infer.cache_hit.count == infer.cache_miss.count == 0
    executions = {batch.batch_size: batch.compute_infer.count for batch in after.batch_stats}
    assert sum(executions.values()) == after.execution_count
    assert sum(size * count for size, count in executions.items()) == after.inference_count
    assert executions[3] == 1
    (batch,) = (batch for batch in after.batch_stats if batch.batch_size == 3)
    assert batch.compute_input.count == batch.compute_output.count == 1
    assert infer.compute_infer.ns >= 3 * batch.compute_infer.ns  # for each of the three
    assert after.last_inference >= before.last_inference > 1_700_000_000_000  # milliseconds


def test_what_fails_is_counted_once() -> None:
    """A failed run, a full queue and a caller who left; not a request that was no good."""
    with rig(queue_requests=4) as r:
        unary = UnaryInfer(r.service)
        occupy(r.made)
        r.made.backend.poison.add(7)
        failing, leaving, *rest = calls = ask(r, unary, 7, 1, 2, 3)
        (refused,) = ask(r, unary, 4)
        bad = FakeCall()
        unary.request(cast("Any", bad), infer_message(1)[:-4])
        unary.cancelled(cast("Any", leaving))
        r.made.clock.advance(0.5)
        r.made.backend.open()
        wait(*calls, refused, bad)
        stats = statistics(r).inference_stats
    assert failing.ends[0][0] is Code.INTERNAL
    assert refused.ends[0][0] is Code.RESOURCE_EXHAUSTED
    assert bad.ends[0][0] is Code.INVALID_ARGUMENT
    assert [call.ends[0][0] for call in rest] == [Code.OK, Code.OK]
    assert stats.fail.count == 3
    assert stats.success.count == 4  # the one that taught the lane and the occupier, too
    assert stats.fail.ns == 500_000_000  # the one that waited before it failed
