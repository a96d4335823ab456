"""Requests larger than the largest batch."""

from queue import SimpleQueue

import numpy as np

from service.errors import (
    InferenceFailed,
    RequestCancelled,
)
from service.inference.request import Outcome, Request
from tests.support.bench import Bench, occupy
from tests.support.fake import WAIT_S
from tests.support.waiting import eventually


def test_too_large_a_request_is_split_and_joined(lone: Bench) -> None:
    """A request of ten rows runs as 4 + 4 + 2 and gets one answer of ten rows."""
    lone.backend.open()
    lone.submit(7, rows=10)
    lone.assert_answered(7, rows=10)
    assert sorted(len(batch) for batch in lone.backend.batches) == [2, 4, 4]
    assert eventually(lambda: lone.scheduler.queue_depth == 0, "the queue is empty")


def test_parts_of_a_split_request_keep_their_order(lone: Bench) -> None:
    """The rows of a joined answer are in the order of the request."""
    lone.backend.open()
    ends: SimpleQueue[Outcome] = SimpleQueue()
    values = np.arange(22, dtype=np.float32).reshape(11, 2)
    lone.scheduler.submit(Request({"X": values}, ("Y",), rows=11, on_end=ends.put))
    outputs = ends.get(timeout=WAIT_S).outputs
    assert outputs is not None
    assert np.array_equal(outputs["Y"], values * 2)


def test_split_request_fails_once(lone: Bench) -> None:
    """A failing part fails the whole request, once, and frees the parts that wait."""
    lone.backend.poison = {7.0}
    occupy(lone)
    lone.submit(7, rows=10)
    lone.backend.open()
    assert isinstance(lone.error(7), InferenceFailed)
    lone.assert_answered(100)
    eventually(lambda: lone.scheduler.queue_depth == 0, "the queue is empty")


def test_split_request_is_one_in_statistics(lone: Bench) -> None:
    """A request that ran as three batches is one success, with all its rows and executions."""
    lone.backend.open()
    lone.submit(7, rows=10)
    lone.assert_answered(7, rows=10)
    totals = lone.scheduler.stats.snapshot()
    assert (totals.queue_ns.count, totals.total_ns.count, totals.compute_ns.count) == (1, 1, 1)
    assert (totals.rows, totals.batch_rows.count, totals.failed) == (10, 3, 0)


def test_split_request_that_failed_is_no_success(lone: Bench) -> None:
    """The parts that ran before the one that failed count as executions, and as no request."""
    values = np.full((10, 2), 1, np.float32)
    values[5:] = 7  # the first of three parts has none of it
    lone.backend.poison = {7.0}
    lone.backend.open()
    ends: SimpleQueue[Outcome] = SimpleQueue()
    lone.scheduler.submit(Request({"X": values}, ("Y",), rows=10, on_end=ends.put))
    assert isinstance(ends.get(timeout=WAIT_S).error, InferenceFailed)
    eventually(lambda: lone.scheduler.stats.snapshot().failed == 1, "the failure is counted")
    totals = lone.scheduler.stats.snapshot()
    assert (totals.queue_ns.count, totals.batch_rows.count) == (0, 1)


def test_cancelling_a_split_request_frees_its_parts(lone: Bench) -> None:
    """No part of a cancelled request stays in the queue."""
    occupy(lone)
    large = lone.submit(7, rows=10)
    assert lone.scheduler.queue_depth == 3
    large.cancel()
    assert lone.scheduler.queue_depth == 0
    lone.backend.open()
    lone.assert_answered(100)
    assert isinstance(lone.error(7), RequestCancelled)
