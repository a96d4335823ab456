"""An infer service with one model on a fake backend, and bundles for it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from service.inference.model import Model
from service.inference.policy import BatchPolicy
from service.inference.request import Outcome
from service.lifecycle.manager import Manager
from service.pb.grpc_service_pb2 import ModelInferResponse
from service.pb.model_config_pb2 import ModelConfig
from service.rpc.infer import InferService
from service.rpc.methods import INFER, STREAM_INFER
from service.rpc.served import ServedModel
from service.tensors import FP32, Tensors
from service.transport.seam import Arity, Code
from tests.support.bench import Bench, bench
from tests.support.bundles import FakeBundle, FakeCall, FakeLane, Member
from tests.support.fake import row
from tests.support.requests import answer, one, raw_request
from tests.support.waiting import WAIT_S, eventually

ARITIES = {INFER: Arity.UNARY, STREAM_INFER: Arity.STREAM}
ROW_BYTES = 8


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
    wants_empty_final = False

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.done = threading.Event()

    def begin(self, served: ServedModel) -> None:
        """Note the model."""
        self.served = served

    def responded(self, outputs: Tensors) -> bool:
        """Refuse: the fake model gives one answer."""
        raise AssertionError(outputs)

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
                infer_message(value),
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


def infer_message(value: float, model: str = "fake") -> bytes:
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
        service.submit(infer_message(1), None, teacher)
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


def closes(r: Rig) -> None:
    """Close the model with no time for what runs."""
    closing = threading.Thread(target=r.made.scheduler.close, args=(0.0,))
    closing.start()
    closing.join(WAIT_S)
    assert not closing.is_alive()
    r.made.backend.closed = 0  # the bench closes it again
