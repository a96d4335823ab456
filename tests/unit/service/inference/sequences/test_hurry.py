"""Steps that are held for a fuller batch, when the server drains or the model is closed."""

import pytest

from service.repository.sequences import Direct, Oldest
from tests.support.sequence_rig import rig
from tests.support.waiting import WAIT_S

HOLDING = pytest.mark.parametrize(
    "strategy",
    [Oldest(max_delay_s=60.0), Direct(max_delay_s=60.0, min_utilization=1.0)],
    ids=["oldest", "direct"],
)


@HOLDING
def test_close_waits_for_no_fuller_batch(strategy: Oldest | Direct) -> None:
    """A step that is held when the model is closed runs at once, and so does one behind it."""
    with rig(strategy) as made:
        made.engine.start()
        sent = [made.send(1, 1, start=True), made.send(1, 2)]
        assert made.engine.close(WAIT_S)
        assert [one.total for one in sent] == [1, 3]


@HOLDING
def test_drain_waits_for_no_fuller_batch(strategy: Oldest | Direct) -> None:
    """Nor are steps held that come later: their sequences are to end."""
    with rig(strategy) as made:
        made.engine.start()
        held = made.send(1, 1, start=True)
        made.engine.drain()
        assert held.total == 1
        assert made.send(1, 2, end=True).total == 3
