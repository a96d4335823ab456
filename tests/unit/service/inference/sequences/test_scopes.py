"""Sequences that are private to a stream, which is their scope: ids, idle time, ends."""

import pytest

from service.errors import InferenceFailed, InvalidRequest, RequestCancelled
from tests.support.sequence_rig import rig


def test_same_id_in_two_scopes_does_not_meet() -> None:
    """An id is private to its scope, and a scope that is over leaves nothing."""
    with rig() as made:
        here, there = object(), object()
        for scope, value in ((here, 1.0), (there, 10.0), (None, 100.0)):
            assert made.send(5, value, start=True, scope=scope).total == value
        assert made.send(5, 1, scope=here).total == 2
        assert made.send(5, 1, scope=there).total == 11
        made.engine.release(here)
        assert not made.engine.is_busy(here)
        assert made.engine.counts().open == 2
        assert made.send(5, 1, scope=there, end=True).total == 12
        assert made.send(5, 1, end=True).total == 101


def test_sequence_of_a_scope_needs_no_id_and_no_start() -> None:
    """The first request without an id begins the sequence of its stream, as does that after END."""
    with rig() as made:
        scope = object()
        assert [made.send(0, v, scope=scope).total for v in (1, 2)] == [1, 3]
        assert made.send(0, 1, scope=scope, end=True).total == 4
        assert made.send("", 5, scope=scope).total == 5
        assert made.backend.starts == [[1], [0], [0], [1]]


def test_sequence_of_a_scope_is_not_begun_by_itself_after_a_failure() -> None:
    """Who goes on after an error is told; who says START goes on."""
    with rig() as made:
        scope = object()
        assert made.send(0, 1, scope=scope).total == 1
        made.backend.poison = {66}
        failed = made.send(0, 66, scope=scope)
        assert isinstance(failed.error, InferenceFailed)
        with pytest.raises(InvalidRequest, match="a request of it failed"):
            made.send(0, 1, scope=scope)
        assert made.send(0, 2, scope=scope, start=True).total == 2


def test_sequence_of_a_scope_that_another_version_ended_is_told_so_once() -> None:
    """A stream may meet the new version by two names, and has the old one's end by one of them."""
    with rig() as before, rig() as after:
        scope = object()
        assert before.send(0, 1, scope=scope).total == 1
        assert before.engine.close(5.0)
        after.engine.succeed(before.engine, scope)
        with pytest.raises(InvalidRequest, match="the model was unloaded"):
            after.send(0, 1, scope=scope)
        assert after.send(0, 2, scope=scope, start=True).total == 2
        after.engine.succeed(before.engine, scope)
        assert after.send(0, 2, scope=scope, end=True).total == 4
        assert after.send(0, 3, scope=scope).total == 3


def test_sequence_of_a_scope_is_never_idle() -> None:
    """A stream that is open may be silent; its state waits for it."""
    with rig(idle_s=1.0) as made:
        scope = object()
        assert made.send(0, 1, scope=scope).total == 1
        made.pass_time(10_000.0)
        assert made.send(0, 1, scope=scope).total == 2


def test_scope_that_ends_stops_what_runs() -> None:
    """The steps of a stream that is gone are stopped, those in the queue cancelled."""
    with rig(is_open=False) as made:
        scope = object()
        running = made.send(0, 1, scope=scope)
        made.backend.wait_for_batches(1)
        queued = made.send(0, 1, scope=scope)
        made.engine.release(scope)
        assert isinstance(running.error, RequestCancelled)
        assert isinstance(queued.error, RequestCancelled)
        assert made.engine.counts().open == 0


def test_sequences_that_get_no_more_steps_make_room_for_those_that_wait() -> None:
    """A stream that is half closed ends its sequences as they are done, or two could block it."""
    stream, other = object(), object()
    with rig(slots=1) as made:
        assert made.send(1, 1, start=True, scope=stream).total == 1
        second = made.send(2, 10, start=True, scope=stream)
        third = made.send(2, 5, scope=stream)
        fourth = made.send(1, 7, start=True, scope=other)
        assert not second.outcomes
        made.engine.finish(stream)
        assert [second.total, third.total, fourth.total] == [10, 15, 7]
        assert made.engine.counts().open == 1
