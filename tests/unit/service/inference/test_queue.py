"""The queue: priorities, keys, and what happens to requests whose time is over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DeadlineExceeded, QueueTimeout
from service.inference.queue import LevelPolicy, QueuePolicy, RequestQueue
from service.inference.request import Key, Request

KEY: Key = (("X", (4,)),)
OTHER: Key = (("X", (5,)),)


def request(
    arrived: float = 0.0,
    *,
    key: Key = KEY,
    priority: int = 0,
    deadline: float | None = None,
    timeout_us: int = 0,
) -> Request:
    """Return a request as the scheduler pushes it."""
    made = Request(
        {"X": np.zeros((1, 4), np.float32)},
        ("Y",),
        rows=1,
        on_end=lambda _outcome: None,
        deadline=deadline,
        priority=priority,
        timeout_us=timeout_us,
    )
    made.arrived = arrived
    made.key = key
    return made


def drawn(queue: RequestQueue) -> list[Request]:
    """Take everything in the order of service."""
    order = []
    while (key := queue.front()) is not None:
        order += queue.take(key, 1)
    return order


def test_arrival_is_the_order_of_one_level() -> None:
    """Requests of one level are served in the order in which they came."""
    queue = RequestQueue(QueuePolicy())
    requests = [request(float(index)) for index in range(5)]
    for each in requests:
        queue.push(each)
    assert drawn(queue) == requests


def test_higher_level_is_served_first() -> None:
    """Level 1 goes before level 2, and a request without a level gets the default one."""
    queue = RequestQueue(QueuePolicy(levels=3, default_level=2))
    low, default, high = request(0, priority=3), request(1), request(2, priority=1)
    unknown = request(3, priority=9)
    for each in (low, default, high, unknown):
        queue.push(each)
    assert drawn(queue) == [high, default, unknown, low]


@pytest.mark.parametrize(
    ("levels", "default", "priority", "expected"),
    [(1, 1, 0, 1), (1, 1, 1, 1), (1, 1, 2, 1), (5, 3, 0, 3), (5, 3, 5, 5), (5, 3, 6, 3)],
)
def test_level_of_a_priority(levels: int, default: int, priority: int, expected: int) -> None:
    """Priority 0 and priorities that do not exist mean the default level."""
    assert QueuePolicy(levels, default).level_of(priority) == expected


def test_keys_never_mix() -> None:
    """What is taken for one key leaves requests of another key where they are."""
    queue = RequestQueue(QueuePolicy())
    first, other, second = request(0), request(1, key=OTHER), request(2)
    for each in (first, other, second):
        queue.push(each)
    assert queue.front() == KEY
    assert queue.peek(KEY, 10) == [first, second]
    assert queue.take(KEY, 10) == [first, second]
    assert drawn(queue) == [other]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_order_is_level_then_arrival(arrivals: list[tuple[int, bool]]) -> None:
    """Whatever was pushed is taken once, by level, then by arrival, keys apart."""
    queue = RequestQueue(QueuePolicy(levels=3, default_level=2))
    requests = [
        request(float(index), priority=priority, key=KEY if plain else OTHER)
        for index, (priority, plain) in enumerate(arrivals)
    ]
    for each in requests:
        queue.push(each)
    expected = sorted(requests, key=lambda r: (r.priority or 2, r.arrived))
    assert drawn(queue) == expected
    assert queue.front() is None


def test_ended_requests_are_skipped() -> None:
    """A request whose caller has left is neither peeked nor taken."""
    queue = RequestQueue(QueuePolicy())
    requests = [request(float(index)) for index in range(4)]
    for each in requests:
        queue.push(each)
    requests[0].cancel()
    requests[2].cancel()
    assert queue.peek(KEY, 10) == [requests[1], requests[3]]
    assert drawn(queue) == [requests[1], requests[3]]


def test_take_goes_through_the_levels_of_a_key() -> None:
    """A batch is filled from the highest level down."""
    queue = RequestQueue(QueuePolicy(levels=2, default_level=2))
    low, high = request(0), request(1, priority=1)
    queue.push(low)
    queue.push(high)
    assert queue.take(KEY, 2) == [high, low]


def test_deadline_ends_a_request() -> None:
    """A request whose deadline has passed leaves with DeadlineExceeded; others stay."""
    queue = RequestQueue(QueuePolicy())
    late, patient = request(0, deadline=5.0), request(0, deadline=50.0)
    queue.push(late)
    queue.push(patient)
    assert queue.expire(4.9) == []
    ((ended, error),) = queue.expire(5.0)
    assert ended is late
    assert isinstance(error, DeadlineExceeded)
    assert drawn(queue) == [patient]


def test_timeout_rejects() -> None:
    """By timeout_action REJECT a request that waited too long leaves with QueueTimeout."""
    queue = RequestQueue(QueuePolicy(default=LevelPolicy(timeout_s=2.0)))
    old, young = request(0), request(1.5)
    queue.push(old)
    queue.push(young)
    ((ended, error),) = queue.expire(2.0)
    assert ended is old
    assert isinstance(error, QueueTimeout)
    assert drawn(queue) == [young]


def test_timeout_delays() -> None:
    """By timeout_action DELAY a request that waited too long is served behind all others."""
    queue = RequestQueue(QueuePolicy(default=LevelPolicy(timeout_s=2.0, rejects=False)))
    old, young = request(0), request(1.5)
    queue.push(old)
    queue.push(young)
    assert queue.expire(2.0) == []
    assert drawn(queue) == [young, old]


def test_deadline_holds_for_delayed_requests() -> None:
    """A request that was put behind all others still leaves at its deadline."""
    queue = RequestQueue(QueuePolicy(default=LevelPolicy(timeout_s=2.0, rejects=False)))
    queue.push(request(0, deadline=6.0))
    assert queue.expire(3.0) == []
    ((_, error),) = queue.expire(6.0)
    assert isinstance(error, DeadlineExceeded)


@pytest.mark.parametrize(
    ("timeout_s", "overridable", "asked_us", "leaves_at"),
    [
        (2.0, False, 500_000, 2.0),  # not for the caller to say
        (2.0, True, 500_000, 0.5),
        (2.0, True, 5_000_000, 2.0),  # shorter only
        (2.0, True, 0, 2.0),
        (0.0, True, 500_000, 0.5),
        (0.0, False, 500_000, None),
        (0.0, True, 0, None),
    ],
)
def test_caller_may_shorten_the_wait(
    timeout_s: float,
    overridable: bool,  # noqa: FBT001  a column of the table
    asked_us: int,
    leaves_at: float | None,
) -> None:
    """A request's own timeout counts where the policy allows it, and only to wait less."""
    policy = LevelPolicy(timeout_s=timeout_s, overridable=overridable)
    queue = RequestQueue(QueuePolicy(default=policy))
    queue.push(request(0, timeout_us=asked_us))
    if leaves_at is None:
        assert queue.expire(1e9) == []
    else:
        assert queue.expire(leaves_at - 0.01) == []
        assert len(queue.expire(leaves_at)) == 1


def test_levels_have_policies_of_their_own() -> None:
    """priority_queue_policy overrides the default for its level alone."""
    queue = RequestQueue(
        QueuePolicy(levels=2, default_level=2, by_level=((1, LevelPolicy(timeout_s=1.0)),))
    )
    urgent, ordinary = request(0, priority=1), request(0)
    queue.push(urgent)
    queue.push(ordinary)
    ((ended, _),) = queue.expire(1.0)
    assert ended is urgent
    assert drawn(queue) == [ordinary]


def test_count_and_drain() -> None:
    """Levels are counted apart, and draining empties all."""
    queue = RequestQueue(QueuePolicy(levels=2, default_level=2))
    requests = [request(0, priority=1), request(1), request(2, key=OTHER)]
    for each in requests:
        queue.push(each)
    assert (queue.count(1), queue.count(2), queue.count(3)) == (1, 2, 0)
    assert set(queue.drain()) == set(requests)
    assert queue.front() is None
