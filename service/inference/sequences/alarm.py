"""When which sequence is to be looked at next: one heap for all of a model. Knows no clock."""

import heapq
import math
from itertools import count
from typing import Final

from service.inference.sequences.sequence import Sequence

_MAX_STALE: Final = 256  # entries that mean nothing any more, beside one for each sequence


class Alarm:
    """Has at most one time for each sequence: the earliest that was set since it rang last."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []
        self._stale = 0
        self._set = 0
        self._numbers = count()  # of two entries for one time the older is first

    @property
    def rings_at(self) -> float:
        """Return the time before which nothing needs to be looked at; math.inf: never."""
        return self._heap[0][0] if self._heap else math.inf

    def set(self, sequence: Sequence, at: float) -> None:
        """Ring for a sequence at this time, unless it is set for an earlier one."""
        if at >= sequence.wake_at:
            return
        self.forget(sequence)
        sequence.wake_at = at
        self._set += 1
        heapq.heappush(self._heap, (at, next(self._numbers), sequence))

    def forget(self, sequence: Sequence) -> None:
        """Ring no more for a sequence."""
        if sequence.wake_at == math.inf:
            return
        sequence.wake_at = math.inf
        self._set -= 1
        self._stale += 1
        if self._stale > _MAX_STALE + self._set:  # else what is over would stay in memory
            self._heap = [entry for entry in self._heap if entry[0] == entry[2].wake_at]
            heapq.heapify(self._heap)
            self._stale = 0

    def next(self, now: float) -> Sequence | None:
        """Return a sequence whose time has come, and ring no more for it; None: that is all."""
        while self._heap and self._heap[0][0] <= now:
            at, _, sequence = heapq.heappop(self._heap)
            if at == sequence.wake_at:
                sequence.wake_at = math.inf
                self._set -= 1
                return sequence
            self._stale -= 1
        return None
