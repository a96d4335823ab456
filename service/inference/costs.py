"""What runs of a model have cost so far: the ground for admission and for running inline."""

from dataclasses import dataclass
from typing import Final

from service.inference.request import Key

_SMOOTHING: Final = 0.1  # weight of the newest run in a mean of run times
_ENOUGH_RUNS: Final = 8  # runs seen before anything is judged by their mean
_CHEAP_S: Final = 500e-6  # runs up to this long may hold up the ingress thread
_MAX_COSTS: Final = 256  # shapes whose cost is kept


@dataclass(slots=True)
class _Cost:
    """Running mean of the time that batches of one shape and size take."""

    mean_s: float
    runs: int = 0

    @property
    def is_cheap(self) -> bool:
        """Tell whether enough runs were seen, and took no longer than the ingress thread may."""
        return self.runs >= _ENOUGH_RUNS and self.mean_s <= _CHEAP_S


@dataclass(frozen=True, slots=True)
class RunCost:
    """Runs of batches of up to max_rows rows, and more than half as many.

    runs: that were seen. mean_s: running mean of their time. inline: such a batch is cheap enough
    for the ingress thread, whatever its shape.
    """

    max_rows: int
    runs: int
    mean_s: float
    inline: bool


class Costs:
    """Running means of the time of runs: of all, and by shape and size. Its owner locks it.

    mean_s: of all runs, in seconds.
    """

    __slots__ = ("_by_shape", "_runs", "mean_s")

    def __init__(self) -> None:
        self.mean_s = 0.0
        self._runs = 0
        self._by_shape: dict[tuple[Key, int], _Cost] = {}

    @property
    def is_known(self) -> bool:
        """Tell whether enough runs were seen to judge by their mean."""
        return self._runs >= _ENOUGH_RUNS

    def is_cheap(self, key: Key, rows: int) -> bool:
        """Tell whether batches of this shape, and of this size to a power of two, were cheap."""
        cost = self._by_shape.get((key, rows.bit_length()))
        return cost is not None and cost.is_cheap

    def by_size(self, max_rows: int, *, may_inline: bool = True) -> list[RunCost]:
        """Return what runs cost by size, ascending, over all shapes.

        max_rows: of the largest batch. may_inline: False: inline is False whatever a run costs.
        """
        sizes: dict[int, list[_Cost]] = {}
        for (_, bits), cost in sorted(self._by_shape.items(), key=lambda item: item[0][1]):
            sizes.setdefault(bits, []).append(cost)
        return [
            RunCost(
                max_rows=min((1 << bits) - 1, max_rows),
                runs=(runs := sum(cost.runs for cost in costs)),
                mean_s=sum(cost.mean_s * cost.runs for cost in costs) / runs,
                inline=may_inline and all(cost.is_cheap for cost in costs),
            )
            for bits, costs in sizes.items()
        ]

    def note(self, key: Key, rows: int, seconds: float) -> None:
        """Take one run into account."""
        weight = _SMOOTHING if self._runs else 1.0
        self.mean_s += (seconds - self.mean_s) * weight
        self._runs += 1
        cost = self._by_shape.get((key, rows.bit_length()))
        if cost is None:
            if len(self._by_shape) >= _MAX_COSTS:
                self._by_shape.clear()
            cost = self._by_shape[key, rows.bit_length()] = _Cost(seconds)
        cost.runs += 1
        cost.mean_s += (seconds - cost.mean_s) * _SMOOTHING
