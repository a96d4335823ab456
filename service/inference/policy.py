"""When to close a batch: a pure function of a snapshot. No clock, no thread, no queue."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How requests that wait are batched.

    max_rows: rows in the largest batch, at least 1.
    preferred_rows: sizes to dispatch as soon as they can be formed; ascending.
    max_delay_s: how long the oldest request may wait for more; 0: not at all, which batches
    whatever queued while the model was busy (natural batching).
    """

    max_rows: int
    preferred_rows: tuple[int, ...] = ()
    max_delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Close:
    """Run the first `requests` requests as one batch now."""

    requests: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again when something arrives, at the latest at this time."""

    until: float


def decide(
    policy: BatchPolicy,
    rows: Sequence[int],
    oldest: float,
    now: float,
    *,
    draining: bool = False,
) -> Close | Wait:
    """Say whether the requests that wait make a batch now.

    rows: rows of each request that waits, in the order in which they would be taken; at least
    one request, and none with more than max_rows. Requests past max_rows need not be listed.
    oldest, now: arrival of the first of them and the present, in seconds of one clock.
    draining: nothing more will arrive, so there is nothing to wait for.
    """
    fitting, total, preferred = 0, 0, 0
    for count in rows:
        if total + count > policy.max_rows:
            break
        total += count
        fitting += 1
        if total in policy.preferred_rows:
            preferred = fitting
    if preferred:
        return Close(preferred)
    deadline = oldest + policy.max_delay_s
    is_full = total == policy.max_rows or fitting < len(rows)
    if is_full or draining or now >= deadline:
        return Close(fitting)
    return Wait(deadline)
