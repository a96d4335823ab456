"""The requests that wait for one model, in the order in which they are served.

Holds requests by priority level and by what they can be batched with. Knows no clock, no
thread and no lock: the scheduler owns it.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from service.errors import DeadlineExceeded, QueueTimeout, RequestError
from service.inference.request import Key, Request

_DELAYED: Final = 1 << 62  # level behind every other one, for timeout_action DELAY


@dataclass(frozen=True, slots=True)
class LevelPolicy:
    """What happens to the requests of one priority level.

    timeout_s: longest wait; 0: no limit. rejects: a time-out refuses the request, otherwise it
    is put behind all others. overridable: a request may ask for a shorter wait.
    max_requests: how many may wait on this level; 0: the queue's limit alone.
    """

    timeout_s: float = 0.0
    rejects: bool = True
    overridable: bool = False
    max_requests: int = 0


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Levels 1 (highest) to `levels`; a request without one gets `default_level`."""

    levels: int = 1
    default_level: int = 1
    default: LevelPolicy = LevelPolicy()
    by_level: tuple[tuple[int, LevelPolicy], ...] = ()

    def level_of(self, priority: int) -> int:
        """Return the level for a request's priority; 0 and unknown ones get the default."""
        return priority if 1 <= priority <= self.levels else self.default_level

    def policy_of(self, level: int) -> LevelPolicy:
        """Return the policy of a level."""
        for known, policy in self.by_level:
            if known == level:
                return policy
        return self.default

    @property
    def has_timeouts(self) -> bool:
        """Tell whether a request can be refused or moved because of its time in the queue."""
        policies = (self.default, *(policy for _, policy in self.by_level))
        return any(policy.timeout_s or policy.overridable for policy in policies)


class RequestQueue:
    """Requests in the order of level, then arrival, grouped by batch key."""

    def __init__(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._has_timeouts = policy.has_timeouts
        self._levels: dict[int, dict[Key, deque[Request]]] = {}
        self._earliest = math.inf  # no request that waits must leave before this time

    @property
    def earliest_leave(self) -> float:
        """Return a time before which no request has to leave; math.inf if none ever has to."""
        return self._earliest

    def push(self, request: Request) -> None:
        """Add a request behind those of its level."""
        level = self._policy.level_of(request.priority)
        self._earliest = min(self._earliest, self._leaves_at(request, level))
        self._add(request, level)

    def count(self, level: int) -> int:
        """Return how many live requests wait on a level."""
        groups = self._levels.get(level, {}).values()
        return sum(request.count for group in groups for request in group if not request.ended)

    def compact(self) -> None:
        """Drop every request that has ended."""
        for groups in self._levels.values():
            for key, group in list(groups.items()):
                groups[key] = deque(request for request in group if not request.ended)

    def front(self) -> Key | None:
        """Return the batch key that is served next; None if nothing waits.

        Drops requests that have ended on the way.
        """
        for level in sorted(self._levels):
            groups = self._levels[level]
            empty = [key for key, group in groups.items() if not _strip(group)]
            for key in empty:
                del groups[key]
            if len(groups) == 1:
                return next(iter(groups))
            if groups:
                return min(groups, key=lambda key: groups[key][0].arrived)
            del self._levels[level]
        return None

    def peek(self, key: Key, limit: int) -> list[Request]:
        """Return up to limit live requests of a key in the order of service."""
        return list(islice((r for r in self._of(key) if not r.ended), limit))

    def take(self, key: Key, count: int) -> list[Request]:
        """Remove and return the first count live requests of a key."""
        taken: list[Request] = []
        for level in sorted(self._levels):
            group = self._levels[level].get(key)
            while group and len(taken) < count:
                request = group.popleft()
                if not request.ended:
                    taken.append(request)
        return taken

    def expire(self, now: float) -> list[tuple[Request, RequestError]]:
        """Remove what must not run any more and return it with the error it ends with.

        A request whose time in the queue is over by policy DELAY moves behind all others.
        """
        ended: list[tuple[Request, RequestError]] = []
        if now < self._earliest:
            return ended
        self._earliest = math.inf
        for level, groups in list(self._levels.items()):
            for key, group in list(groups.items()):
                groups[key] = self._sift(group, level, now, ended)
        return ended

    def drain(self) -> list[Request]:
        """Remove and return everything that waits."""
        rest = [r for groups in self._levels.values() for group in groups.values() for r in group]
        self._levels.clear()
        return rest

    def _add(self, request: Request, level: int) -> None:
        groups = self._levels.setdefault(level, {})
        key = request.key or ()
        group = groups.get(key)
        if group is None:
            group = groups[key] = deque()
        group.append(request)

    def _of(self, key: Key) -> Iterator[Request]:
        for level in sorted(self._levels):
            yield from self._levels[level].get(key, ())

    def _sift(
        self,
        group: deque[Request],
        level: int,
        now: float,
        ended: list[tuple[Request, RequestError]],
    ) -> deque[Request]:
        kept: deque[Request] = deque()
        for request in group:
            leaves_at = self._leaves_at(request, level)
            if request.ended:
                continue
            if now < leaves_at:
                self._earliest = min(self._earliest, leaves_at)
                kept.append(request)
            elif request.deadline is not None and request.deadline <= now:
                ended.append((request, DeadlineExceeded()))
            elif self._policy.policy_of(level).rejects:
                ended.append((request, QueueTimeout()))
            else:
                self._add(request, _DELAYED)
                self._earliest = min(self._earliest, self._leaves_at(request, _DELAYED))
        return kept

    def _leaves_at(self, request: Request, level: int) -> float:
        if not self._has_timeouts:
            return math.inf if request.deadline is None else request.deadline
        timeout_s = self._timeout_s(request, level)
        by_policy = request.arrived + timeout_s if timeout_s else math.inf
        return by_policy if request.deadline is None else min(by_policy, request.deadline)

    def _timeout_s(self, request: Request, level: int) -> float:
        if level == _DELAYED:
            return 0.0
        policy = self._policy.policy_of(level)
        asked = request.timeout_us / 1e6 if policy.overridable else 0.0
        if asked and policy.timeout_s:
            return min(asked, policy.timeout_s)
        return asked or policy.timeout_s


def _strip(group: deque[Request]) -> bool:
    """Drop ended requests at the front; tell whether anything is left."""
    while group and group[0].ended:
        group.popleft()
    return bool(group)
