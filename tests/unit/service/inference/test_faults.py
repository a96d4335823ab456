"""What a hostile or broken request must not do: hold up, strand or outlive the others."""

import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest

from service.errors import InferenceFailed, InvalidRequest, QueueFull
from service.inference.admission import SchedulerConfig
from service.inference.backend import Interrupt
from service.inference.policy import BatchPolicy
from service.inference.queue import LevelPolicy, QueuePolicy
from service.inference.request import Outcome, Request
from service.inference.scheduler import Scheduler
from service.tensors import Tensors
from tests.support.fake import WAIT_S, FakeBackend, row
from tests.support.waiting import eventually


def request_of(inputs: Tensors, outcomes: list[Outcome]) -> Request:
    """Return a request that keeps its outcome."""
    return Request(inputs, ("Y",), rows=inputs["X"].shape[0], on_end=outcomes.append)


def test_more_rows_than_the_queue_could_hold_are_refused_before_they_are_split() -> None:
    """A request of a billion empty rows costs nothing and is told that it can never fit."""
    scheduler = Scheduler("m", FakeBackend(), SchedulerConfig(BatchPolicy(8), queue_requests=4))
    huge = np.empty((1 << 30, 0), np.float32)
    with pytest.raises(InvalidRequest, match="batch-size must be <= 32 for 'm', got 1073741824"):
        scheduler.submit(request_of({"X": huge}, []))
    assert scheduler.queue_depth == 0


def test_failure_is_counted_before_it_is_told() -> None:
    """Who asks for statistics as soon as he has the error finds it in them."""
    backend = FakeBackend(is_open=True)
    backend.poison = {66}
    scheduler = Scheduler("m", backend, SchedulerConfig(BatchPolicy(1)))
    scheduler.start()
    counted: list[int] = []
    scheduler.submit(
        Request(
            row(66), ("Y",), rows=1,
            on_end=lambda _: counted.append(scheduler.stats.snapshot().failed),
        )
    )  # fmt: skip
    assert scheduler.close(WAIT_S)
    assert counted == [1]


class Ragged(FakeBackend):
    """Gives rows as wide as the first value of X says: no two batches need to agree."""

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Return zeros [rows, X[0, 0]]."""
        super().run(inputs, outputs, interrupt)
        width = int(inputs["X"][0, 0])
        return dict.fromkeys(outputs, np.zeros((len(inputs["X"]), width), np.float32))


def test_parts_that_do_not_fit_together_fail_their_request_and_no_other() -> None:
    """A large request whose parts differ in shape fails; the thread goes on to the next."""
    scheduler = Scheduler("m", Ragged(is_open=True), SchedulerConfig(BatchPolicy(2)))
    scheduler.start()
    large: list[Outcome] = []
    small: list[Outcome] = []
    values = np.array([[1], [1], [2], [2]], np.float32)
    scheduler.submit(request_of({"X": values}, large))
    eventually(lambda: bool(large), "the large request ends")
    assert isinstance(large[0].error, InferenceFailed)
    scheduler.submit(request_of({"X": values[:1]}, small))
    eventually(lambda: bool(small), "the next request is answered")
    assert small[0].error is None
    assert scheduler.close(WAIT_S)


def test_an_answer_that_cannot_be_given_strands_nobody() -> None:
    """An error in one caller's callback leaves its batch mates answered and the thread alive."""
    scheduler = Scheduler("m", FakeBackend(is_open=True), SchedulerConfig(BatchPolicy(8)))
    outcomes: list[Outcome] = []

    def broken(_outcome: Outcome) -> None:
        raise RuntimeError("broken")

    scheduler.submit(Request(row(1), ("Y",), rows=1, on_end=broken))
    scheduler.submit(request_of(row(2), outcomes))
    scheduler.start()
    eventually(lambda: len(outcomes) == 1, "the batch mate is answered")
    scheduler.submit(request_of(row(3), outcomes))
    eventually(lambda: len(outcomes) == 2, "the next request is answered")
    assert scheduler.close(WAIT_S)


def test_who_has_left_takes_no_place_on_a_level() -> None:
    """Cancelled requests do not count against max_queue_size."""
    queue = QueuePolicy(default=LevelPolicy(max_requests=2))
    scheduler = Scheduler("m", FakeBackend(), SchedulerConfig(BatchPolicy(8), queue))
    for value in range(5):
        request = request_of(row(value), [])
        scheduler.submit(request)
        request.cancel()
    scheduler.submit(request_of(row(6), []))
    scheduler.submit(request_of(row(7), []))
    with pytest.raises(QueueFull):
        scheduler.submit(request_of(row(8), []))


def test_strings_count_by_their_length() -> None:
    """The bytes of a request are those of its strings, not of the references to them."""
    strings = np.array([["x" * 1000, "y" * 500]], dtype=object)
    assert request_of({"X": strings}, []).bytes >= 1500


def test_a_fault_while_flushing_leaves_the_rest_to_the_threads() -> None:
    """What was submitted deferred is served by the model's own thread if flush breaks off."""
    faults: list[Exception] = []
    caller = threading.get_ident()

    def clock() -> float:
        if faults and threading.get_ident() == caller:
            raise faults.pop()
        return time.monotonic()

    scheduler = Scheduler(
        "m", FakeBackend(is_open=True), SchedulerConfig(BatchPolicy(8)), clock=clock
    )
    scheduler.start()
    outcomes: list[Outcome] = []
    scheduler.submit(request_of(row(1), outcomes), deferred=True)
    faults.append(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        scheduler.flush()
    eventually(lambda: bool(outcomes), "the request is answered")
    assert scheduler.close(WAIT_S)
