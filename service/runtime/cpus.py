"""How many CPUs this process may really use: affinity, cpuset and cgroup quota, not the host's.

Reads cgroup v1, v2 and both at once. A quota holds for everything below it, so that the smallest
of the process's own cgroup and its ancestors counts.
"""

import math
import os
import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/")


@dataclass(frozen=True, slots=True)
class Cpus:
    """What this process may use.

    allowed: CPUs that affinity and cpuset leave. quota: how many CPUs' worth of time the cgroup
    grants; None: no limit.
    """

    allowed: int
    quota: float | None = None

    @property
    def usable(self) -> int:
        """Return how many threads can run at once, at least 1. A part of a CPU counts as one."""
        bound = self.allowed if self.quota is None else min(self.allowed, math.ceil(self.quota))
        return max(1, bound)

    def __str__(self) -> str:
        text = f"{self.usable} CPU" + ("s" if self.usable > 1 else "")
        return text if self.quota is None else f"{text} of a quota of {self.quota:g}"


@dataclass(frozen=True, slots=True)
class _Mount:
    """A cgroup hierarchy. root: what of it is mounted. controllers: none for version 2."""

    root: str
    point: Path
    controllers: AbstractSet[str]


def read_cpus(root: Path = _ROOT, affinity: AbstractSet[int] | None = None) -> Cpus:
    """Return the CPUs of this process. root, affinity: what tests put in place of the machine's."""
    affinity = os.sched_getaffinity(0) if affinity is None else affinity
    mounts = list(_mounts(root))
    paths = _own_paths(root)
    quotas = [
        quota
        for controller, read in (("cpu", _quota_v1), ("", _quota_v2))
        for directory in _directories(mounts, paths, controller)
        if (quota := read(directory)) is not None
    ]
    cpuset = _first(
        _cpuset(directory)
        for controller in ("cpuset", "")
        for directory in _directories(mounts, paths, controller)
    )
    # The kernel keeps affinity within the cpuset; sandboxes that imitate it may not.
    allowed = affinity & cpuset or affinity
    return Cpus(len(allowed), min(quotas, default=None))


def _mounts(root: Path) -> Iterator[_Mount]:
    """Yield every cgroup hierarchy; see proc(5), mountinfo."""
    with suppress(OSError):
        for line in (root / "proc/self/mountinfo").read_text().splitlines():
            place, _, kind = line.partition(" - ")
            fields, (filesystem, *rest) = place.split(" "), kind.split(" ")
            if filesystem not in ("cgroup", "cgroup2") or len(fields) < 5:
                continue
            options = rest[-1].split(",") if filesystem == "cgroup" and rest else ()
            point = root / _unescaped(fields[4]).lstrip("/")
            yield _Mount(_unescaped(fields[3]), point, frozenset(options))


def _own_paths(root: Path) -> dict[str, str]:
    """Return the cgroup of this process by controller, "" for version 2; see cgroups(7)."""
    paths: dict[str, str] = {}
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _directories(mounts: list[_Mount], paths: dict[str, str], controller: str) -> Iterator[Path]:
    """Yield the directory of the process's cgroup in a hierarchy, then those above it."""
    path = paths.get(controller)
    if path is None:
        return
    for mount in mounts:
        if controller not in (mount.controllers or {""}):
            continue
        below = [part for part in path.split("/") if part]
        above = [part for part in mount.root.split("/") if part]
        # Without a cgroup namespace a container sees the host's path, but only its part mounted.
        parts = below[len(above) :] if below[: len(above)] == above else []
        if ".." in parts:  # above the root of the namespace, which is all that can be seen
            parts = []
        for depth in range(len(parts), -1, -1):
            yield mount.point.joinpath(*parts[:depth])


def _quota_v2(directory: Path) -> float | None:
    match _words(directory / "cpu.max"):
        case [quota, period] if quota != "max":
            return _ratio(quota, period)
    return None


def _quota_v1(directory: Path) -> float | None:
    match _words(directory / "cpu.cfs_quota_us"), _words(directory / "cpu.cfs_period_us"):
        case [quota], [period]:
            return _ratio(quota, period)
    return None


def _ratio(quota: str, period: str) -> float | None:
    """Return CPUs; None for -1, which is no limit, and for what is no number."""
    with suppress(ValueError):
        if int(quota) > 0 and int(period) > 0:
            return int(quota) / int(period)
    return None


def _cpuset(directory: Path) -> AbstractSet[int]:
    """Return the CPUs of a cpuset, empty if it says nothing."""
    names = ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus")
    for name in names:
        if words := _words(directory / name):
            return _cpu_list(words[0])
    return frozenset()


def _cpu_list(text: str) -> AbstractSet[int]:
    """Read `0-3,7`; empty if it is something else."""
    cpus: set[int] = set()
    for part in text.split(","):
        if re.fullmatch(r"\d{1,6}(-\d{1,6})?", part) is None:
            return frozenset()
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return []


def _first(sets: Iterator[AbstractSet[int]]) -> AbstractSet[int]:
    return next((each for each in sets if each), frozenset())


def _unescaped(text: str) -> str:
    """Undo the octal escapes of mountinfo, by which a space is 040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
