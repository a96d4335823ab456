"""Which steps a batch is made of whose rows belong to sequences: a pure function of a snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.inference.request import Key
from service.repository.sequences import Direct


@dataclass(frozen=True, slots=True)
class Ready:
    """A step that may run. row: of its sequence. arrived: when it could first have run."""

    row: int
    key: Key
    arrived: float


@dataclass(frozen=True, slots=True)
class Take:
    """Run these now, by their places in what was given."""

    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Hold:
    """Look again when something becomes ready, at the latest at this time."""

    until: float


def choose(policy: Direct, rows: int, ready: Sequence[Ready], now: float) -> Take | Hold:
    """Say which steps make a batch now.

    rows: of the largest batch. ready: at least one, in the order of arrival; of one row only the
    first can be taken, and of unlike shapes those that are like the first.
    """
    taken: dict[int, int] = {}
    for place, step in enumerate(ready):
        if step.key == ready[0].key:
            taken.setdefault(step.row, place)
    is_enough = len({step.row for step in ready}) >= policy.min_utilization * rows
    until = ready[0].arrived + policy.max_delay_s
    if is_enough or not policy.min_utilization or now >= until:
        return Take(tuple(sorted(taken.values())))
    return Hold(until)
