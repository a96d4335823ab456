"""The responses of one request on a stream: nothing follows the end, whoever brings it."""

import threading
from dataclasses import dataclass, field

import numpy as np

from service.errors import InvalidRequest, ShuttingDown
from service.inference.request import NO_TIMINGS, Outcome
from service.pb.grpc_service_pb2 import ModelStreamInferResponse
from service.pb.model_config_pb2 import ModelConfig
from service.rpc.responses import Responses
from service.rpc.served import ServedModel
from service.tensors import INT32, Signature, TensorSpec
from service.transport.seam import Code
from tests.support.python_requests import Seen, seen
from tests.support.waiting import WAIT_S

SIGNATURE = Signature((), (TensorSpec("OUT", INT32, (-1,)),), batched=False)
OUTPUTS = {"OUT": np.array([5], np.int32)}


@dataclass
class Stream:
    """Notes what is sent. ends_on_error: as with triton_grpc_error."""

    ends_on_error: bool = False
    replies: list[bytes] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    status: tuple[Code, str] | None = None
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event | None = None

    def respond(self, reply: bytes) -> bool:
        """Send, when the test lets it."""
        self.entered.set()
        if self.go_on is not None:
            assert self.go_on.wait(WAIT_S)
        self.replies.append(reply)
        return False

    def end_responses(self, ticket: int, reply: bytes | None) -> None:
        """Note the end."""
        self.settled.append(ticket)
        if reply is not None:
            self.replies.append(reply)

    def ends_on(self, code: Code, text: str) -> bool:
        """Note the status."""
        if self.ends_on_error:
            self.status = (code, text)
        return self.ends_on_error

    def seen(self) -> list[Seen]:
        """Return what was sent."""
        return seen(map(ModelStreamInferResponse.FromString, self.replies))


class _Engine:
    def __init__(self) -> None:
        self.stats = self
        self.outcomes: list[str] = []

    def record_outcome(self, outcome: str, count: int = 1) -> None:
        self.outcomes += [outcome] * count


def served() -> ServedModel:
    """Return a model that counts outcomes."""
    from service.inference.model import Model

    return ServedModel(Model("m", "1", SIGNATURE, ModelConfig(), _Engine(), "python"))  # type: ignore[arg-type]


def outcome(outputs: object = None, error: object = None) -> Outcome:
    """Return how a request ends."""
    return Outcome(outputs, error, NO_TIMINGS)  # type: ignore[arg-type]


def test_the_end_says_what_the_caller_asked_for() -> None:
    """Outputs are final, no outputs are told only on demand, an error is an error."""
    model = served()
    for ends, empty_final, expected in (
        (outcome(OUTPUTS), False, [Seen("a", 5, True)]),
        (outcome(OUTPUTS), True, [Seen("a", 5, True)]),
        (outcome(), False, []),
        (outcome(), True, [Seen("a", None, True)]),
        (outcome(error=InvalidRequest("no")), True, [Seen("a", None, True, "no")]),
    ):
        stream = Stream()
        Responses(stream, 7).end(model, "a", ends, empty_final=empty_final)
        assert (stream.seen(), stream.settled) == (expected, [7])
    assert model.scheduler.outcomes == ["OK"] * 4 + ["INVALID_ARGUMENT"]  # type: ignore[attr-defined]


def test_an_error_may_end_the_stream_instead() -> None:
    """Nothing is sent for its request then."""
    stream = Stream(ends_on_error=True)
    Responses(stream, 7).end(served(), "a", outcome(error=InvalidRequest("no")), empty_final=True)
    assert (stream.status, stream.replies, stream.settled) == (
        (Code.INVALID_ARGUMENT, "no"),
        [],
        [],
    )


def test_room_is_what_the_stream_says() -> None:
    """Its producer waits when there is none."""
    stream = Stream()
    assert Responses(stream, 7).give(served(), "a", OUTPUTS) is False
    assert stream.seen() == [Seen("a", 5, False)]


def test_nothing_follows_the_end() -> None:
    """A response that comes behind it is dropped."""
    stream, model = Stream(), served()
    responses = Responses(stream, 7)
    responses.end(model, "a", outcome(error=ShuttingDown()), empty_final=False)
    assert responses.give(model, "a", OUTPUTS) is True
    assert len(stream.replies) == 1


def test_the_end_waits_for_a_response_that_is_being_given() -> None:
    """They come from two threads, and the end comes last."""
    stream, model = Stream(go_on=threading.Event()), served()
    responses = Responses(stream, 7)
    giving = threading.Thread(target=responses.give, args=(model, "a", OUTPUTS))
    giving.start()
    assert stream.entered.wait(WAIT_S)
    ending = threading.Thread(
        target=lambda: responses.end(model, "a", outcome(OUTPUTS), empty_final=False)
    )
    ending.start()
    ending.join(0.02)  # longer only makes a fault more likely to be seen
    assert stream.go_on is not None
    stream.go_on.set()
    giving.join(WAIT_S)
    ending.join(WAIT_S)
    assert stream.seen() == [Seen("a", 5, False), Seen("a", 5, True)]
