"""When a batch is closed, as tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inference.policy import BatchPolicy, Close, Wait, decide

NATURAL = BatchPolicy(max_rows=8)
DELAYED = BatchPolicy(max_rows=8, max_delay_s=0.5)
PREFERRED = BatchPolicy(max_rows=8, preferred_rows=(2, 4), max_delay_s=0.5)


@pytest.mark.parametrize(
    ("policy", "rows", "waited", "draining", "expected"),
    [
        # Natural batching: whatever is there, at once, up to the largest batch.
        (NATURAL, [1], 0.0, False, Close(1)),
        (NATURAL, [1] * 5, 0.0, False, Close(5)),
        (NATURAL, [1] * 9, 0.0, False, Close(8)),
        (NATURAL, [3, 3, 3], 0.0, False, Close(2)),
        (NATURAL, [8], 0.0, False, Close(1)),
        # With a delay the oldest request may wait for more.
        (DELAYED, [1], 0.0, False, Wait(10.5)),
        (DELAYED, [1] * 7, 0.49, False, Wait(10.5)),
        (DELAYED, [1] * 7, 0.5, False, Close(7)),
        (DELAYED, [1], 9.0, False, Close(1)),
        # A full batch waits for nothing, nor does one that the next request does not fit into.
        (DELAYED, [1] * 8, 0.0, False, Close(8)),
        (DELAYED, [4, 4], 0.0, False, Close(2)),
        (DELAYED, [5, 4], 0.0, False, Close(1)),
        # When nothing more will arrive there is nothing to wait for.
        (DELAYED, [1], 0.0, True, Close(1)),
        # Preferred sizes are taken as soon as they can be formed, the largest first.
        (PREFERRED, [1], 0.0, False, Wait(10.5)),
        (PREFERRED, [1, 1], 0.0, False, Close(2)),
        (PREFERRED, [1, 1, 1], 0.0, False, Close(2)),
        (PREFERRED, [1] * 6, 0.0, False, Close(4)),
        (PREFERRED, [3], 0.0, False, Wait(10.5)),
        (PREFERRED, [3, 1], 0.0, False, Close(2)),
        (PREFERRED, [3, 3], 0.5, False, Close(2)),
    ],
)
def test_decision(
    policy: BatchPolicy,
    rows: list[int],
    waited: float,
    draining: bool,  # noqa: FBT001  a column of the table
    expected: Close | Wait,
) -> None:
    """What waits, and how long, decides alone whether a batch is closed."""
    assert decide(policy, rows, 10.0, 10.0 + waited, draining=draining) == expected


@given(
    rows=st.lists(st.integers(1, 8), min_size=1, max_size=20),
    preferred=st.sets(st.integers(1, 8)),
    delay=st.sampled_from([0.0, 0.5]),
    waited=st.floats(0, 1),
)
def test_no_batch_is_empty_or_too_large(
    rows: list[int], preferred: set[int], delay: float, waited: float
) -> None:
    """A closed batch has at least one request and at most max_rows rows."""
    policy = BatchPolicy(8, tuple(sorted(preferred)), delay)
    decision = decide(policy, rows, 0.0, waited)
    if isinstance(decision, Close):
        assert decision.requests >= 1
        assert sum(rows[: decision.requests]) <= 8
    else:
        assert waited < decision.until == delay
