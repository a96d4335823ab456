"""Which steps make a batch whose rows belong to sequences, as a table."""

import pytest

from service.inference.sequences.rows import Hold, Ready, Take, choose
from service.repository.sequences import Direct

SMALL, LARGE = (("X", (1,)),), (("X", (2,)),)


def ready(*rows: int, arrived: float = 100.0) -> list[Ready]:
    """Return steps of these rows, of one shape."""
    return [Ready(row, SMALL, arrived) for row in rows]


@pytest.mark.parametrize(
    ("policy", "steps", "now", "expected"),
    [
        (Direct(), ready(2), 100.0, Take((0,))),
        (Direct(), ready(3, 0, 1), 100.0, Take((0, 1, 2))),
        # The delay means nothing without a utilization.
        (Direct(max_delay_s=5.0), ready(0), 100.0, Take((0,))),
        (Direct(5.0, 0.5), ready(0), 100.0, Hold(105.0)),
        (Direct(5.0, 0.5), ready(0, 3), 100.0, Take((0, 1))),
        (Direct(5.0, 0.5), ready(0), 105.0, Take((0,))),
        (Direct(5.0, 1.0), ready(0, 1, 2), 104.9, Hold(105.0)),
        # Of one row only the first; it does not count twice.
        (Direct(), ready(1, 1), 100.0, Take((0,))),
        (Direct(5.0, 0.5), ready(1, 1), 100.0, Hold(105.0)),
        # What has another shape than the oldest waits for its turn.
        (Direct(), [Ready(0, SMALL, 1.0), Ready(1, LARGE, 2.0), Ready(2, SMALL, 3.0)], 9.0,
         Take((0, 2))),
    ],
)  # fmt: skip
def test_choice(policy: Direct, steps: list[Ready], now: float, expected: Take | Hold) -> None:
    """The oldest decides the shape and the time; utilization what is enough before it."""
    assert choose(policy, 4, steps, now) == expected
