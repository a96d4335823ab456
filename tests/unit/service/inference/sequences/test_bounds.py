"""What the engine of sequences holds at most: steps that wait, states, a backlog."""

from typing import Any

import numpy as np
import pytest

from service.errors import QueueFull, SequenceBacklogFull, StatesFull
from service.tensors import Tensors
from tests.support.sequence_rig import rig
from tests.support.waiting import eventually


def test_backlog_of_idle_sequences_is_worked_off() -> None:
    """Sequences that never end give their places to those that wait, in turn."""
    with rig(slots=2, backlog=6, idle_s=10.0) as made:
        sent = [made.send(name, name, start=True) for name in range(1, 9)]
        with pytest.raises(SequenceBacklogFull):
            made.send(9, 9, start=True)
        for done in (2, 4, 6, 8):
            assert [one.total for one in sent[:done]] == list(range(1, done + 1))
            eventually(lambda: made.engine.counts().waiting == 8 - done, "steps")  # noqa: B023
            made.pass_time(11.0)
        assert made.engine.counts().reaped == 8
        assert (made.engine.counts().open, made.engine.counts().backlog) == (0, 0)
        assert made.send(9, 9, start=True).total == 9


def test_waiting_steps_are_bounded() -> None:
    """More steps than the queue holds are refused, and the sequence is none the worse for it."""
    with rig(is_open=False, queue_requests=2) as made:
        sent = [made.send(1, 1, start=True), made.send(1, 1), made.send(1, 1)]
        with pytest.raises(QueueFull):
            made.send(1, 1)
        made.backend.open()
        assert [one.total for one in sent] == [1, 2, 3]
        assert made.send(1, 1).total == 4


def test_full_queue_keeps_nobody_out_who_need_not_wait() -> None:
    """Steps of one sequence that wait for each other are no reason to refuse another one."""
    with rig(slots=3, is_open=False, queue_requests=1) as made:
        busy, waiting = made.send(1, 1, start=True), made.send(1, 1)
        made.backend.wait_for_batches(1)
        other = made.send(2, 5, start=True)
        made.backend.open()
        assert [busy.total, waiting.total, other.total] == [1, 2, 5]
        made.backend.shut()
        made.send(1, 1)
        made.send(1, 1)
        assert made.engine.queue_depth
        again = made.send(2, 7, start=True)
        with pytest.raises(QueueFull):
            made.send(2, 7, start=True)
        made.backend.open()
        assert again.total == 7


def test_states_are_bounded() -> None:
    """A step that leaves more state than there is room for is told so, and its sequence is over."""
    with rig(state_bytes=8) as made:
        assert made.send(1, 1, start=True).total == 1
        assert made.send(2, 1, start=True).total == 1
        assert made.engine.counts().state_bytes == 8
        one_too_many = made.send(3, 1, start=True)
        assert isinstance(one_too_many.error, StatesFull)
        assert made.send(4, 1, start=True, end=True).total == 1  # it leaves nothing
        assert made.send(1, 1, end=True).total == 2
        assert made.send(3, 5, start=True).total == 5
        assert made.engine.counts().state_bytes == 8


def test_states_of_strings_count_with_their_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a state of BYTES takes is not eight bytes an element."""
    with rig(state_bytes=100) as made:
        run = made.backend.run

        def spell(*arguments: Any) -> Tensors:
            return {**run(*arguments), "total_out": np.array([["x" * 100]], object)}

        monkeypatch.setattr(made.backend, "run", spell)
        assert isinstance(made.send(1, 1, start=True).error, StatesFull)
