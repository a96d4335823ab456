"""An engine for responses with a model made of a function, and requests that note what they get."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from service.errors import RequestCancelled
from service.inference.admission import SchedulerConfig
from service.inference.policy import BatchPolicy
from service.inference.producer import Responses
from service.inference.request import Outcome, Request
from service.inference.responses import ResponseEngine
from service.tensors import Tensors
from tests.support.waiting import WAIT_S

Respond: TypeAlias = Callable[[Request, threading.Event], Responses]


def value(number: int) -> Tensors:
    """Return outputs that hold a number."""
    return {"Y": np.array([number])}


def endless(_request: Request, _left: threading.Event) -> Responses:
    """Count for ever."""
    number = 0
    while True:
        yield value(number)
        number += 1


def until_left(_request: Request, left: threading.Event) -> Responses:
    """Give one response, then wait until nobody waits."""
    yield value(0)
    assert left.wait(WAIT_S)
    raise RequestCancelled


def giving(*numbers: int, last: int | None = None) -> Respond:
    """Return a model that gives these numbers, and one that ends them."""

    def respond(_request: Request, _left: threading.Event) -> Responses:
        for number in numbers:
            yield value(number)
        return None if last is None else value(last)

    return respond


@dataclass(slots=True)
class FakeProducer:
    """Responds by a function, and notes which threads used and closed it."""

    function: Respond
    threads: list[str] = field(default_factory=list)
    closed_by: str = ""

    def respond(self, request: Request, left: threading.Event) -> Responses:
        """Note the thread that asks for the responses."""
        self.threads.append(threading.current_thread().name)
        return (yield from self.function(request, left))

    def close(self) -> None:
        """Note the thread."""
        self.closed_by = threading.current_thread().name


@dataclass(slots=True)
class Caller:
    """One request and what it got. has_room: what the network says to each response."""

    has_room: bool = True
    got: "queue.SimpleQueue[int]" = field(default_factory=queue.SimpleQueue)
    outcomes: list[Outcome] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    request: Request = field(init=False)

    def __post_init__(self) -> None:
        """Make the request."""
        self.request = Request(
            {}, ("Y",), rows=1, on_end=self._on_end, on_response=self._on_response
        )

    def next(self) -> int:
        """Wait for a response."""
        return self.got.get(timeout=WAIT_S)

    def outcome(self) -> Outcome:
        """Wait for the end."""
        assert self.ended.wait(WAIT_S), "the request does not end"
        (outcome,) = self.outcomes
        return outcome

    def _on_response(self, outputs: Tensors) -> bool:
        self.got.put(int(outputs["Y"][0]))
        return self.has_room

    def _on_end(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.ended.set()


@contextmanager
def engine_of(
    function: Respond, *, instances: int = 1, queue_requests: int = 100, decoupled: bool = True
) -> Iterator[tuple[ResponseEngine, list[FakeProducer]]]:
    """Run an engine and its producers; it must stop at the end."""
    producers: list[FakeProducer] = []

    def make() -> FakeProducer:
        producers.append(FakeProducer(function))
        return producers[-1]

    config = SchedulerConfig(
        BatchPolicy(max_rows=4), instances=instances, queue_requests=queue_requests
    )
    engine = ResponseEngine("fake", make, config, decoupled=decoupled)
    engine.start()
    try:
        yield engine, producers
    finally:
        engine.close(0.0)
        assert all(producer.closed_by for producer in producers)
