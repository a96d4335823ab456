"""The engine of sequences drains and closes: what was accepted is answered."""

import pytest

from service.errors import ShuttingDown
from tests.support.sequence_rig import rig
from tests.support.waiting import eventually


def test_drain_refuses_new_sequences_alone() -> None:
    """Sequences in progress may go on to their end while no new one is begun."""
    with rig() as made:
        assert made.send(1, 1, start=True).total == 1
        made.engine.drain()
        with pytest.raises(ShuttingDown):
            made.send(2, 1, start=True)
        assert made.send(1, 1).total == 2
        assert made.send(1, 1, end=True).total == 3


def test_drain_tells_when_sequences_have_ended() -> None:
    """Each end is told, however it came; a step that ends none is not, for it says nothing."""
    told: list[str] = []
    with rig(idle_s=10.0) as made:
        for name in (1, 2, 3):
            assert made.send(name, 1, start=True).total == 1
        made.engine.drain(lambda: told.append("fewer"))
        assert made.send(1, 1).total == 2
        assert told == []
        made.send(1, 1, end=True).request.cancel()
        eventually(lambda: told == ["fewer"], "the end of one")
        made.pass_time(11.0)
        assert told == ["fewer"] * 2
        assert not made.engine.is_busy(None)


def test_close_answers_what_was_accepted() -> None:
    """Closing lets every accepted step run, also those of sequences that wait for a place."""
    with rig(slots=1, is_open=False) as made:
        sent = [made.send(1, 1, start=True), made.send(1, 2), made.send(2, 5, start=True)]
        made.backend.open()
        assert made.engine.close(10.0)
        assert [one.total for one in sent] == [1, 3, 5]
        with pytest.raises(ShuttingDown):
            made.send(1, 1)
        assert made.backend.closed == 1


def test_close_in_a_hurry_answers_with_the_shutdown() -> None:
    """What cannot be run in time is answered, and nothing runs on."""
    with rig(is_open=False) as made:
        sent = [made.send(1, 1, start=True), made.send(1, 2)]
        made.backend.wait_for_batches(1)
        assert not made.engine.close(0.0)
        assert all(one.error for one in sent)
        assert isinstance(sent[1].error, ShuttingDown)
        assert made.backend.closed == 1
