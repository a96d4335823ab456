"""The CPUs that a container may really use, by cgroup trees that the tests write."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from service.runtime.cpus import Cpus, read_cpus

EIGHT = frozenset(range(8))
V2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
V1_CPU = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct"
V1_SET = "34 31 0:31 / /sys/fs/cgroup/cpuset rw shared:11 - cgroup cgroup rw,cpuset"
V1_TREE = {
    "proc/self/mountinfo": f"{V1_CPU}\n{V1_SET}",
    "proc/self/cgroup": "4:cpu,cpuacct:/docker/a1\n3:cpuset:/docker/a1\n1:name=systemd:/",
}
CPU = "sys/fs/cgroup/cpu,cpuacct"
POD = "/kubepods.slice/pod7.slice/cri-a1.scope"


def v2(path: str, files: Mapping[str, str], mount: str = V2) -> dict[str, str]:
    """Return a tree of version 2 in which the process is at path; files: below the mount."""
    return {
        "proc/self/mountinfo": f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n{mount}",
        "proc/self/cgroup": f"0::{path}",
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }


TREES = {
    "no cgroup at all": ({}, Cpus(8)),
    "v2, no limit": (v2("/", {"cpu.max": "max 100000\n"}), Cpus(8)),
    "v2, one and a half": (v2("/", {"cpu.max": "150000 100000\n"}), Cpus(8, 1.5)),
    "v2, nonsense": (v2("/", {"cpu.max": "nonsense"}), Cpus(8)),
    "v2, empty file": (v2("/", {"cpu.max": ""}), Cpus(8)),
    "v2, own cgroup below the root": (v2("/app", {"app/cpu.max": "200000 100000"}), Cpus(8, 2)),
    "v2, the smallest of all ancestors": (
        v2(
            POD,
            {
                "kubepods.slice/cpu.max": "600000 100000",
                "kubepods.slice/pod7.slice/cpu.max": "200000 100000",
                f"{POD[1:]}/cpu.max": "300000 100000",
            },
        ),
        Cpus(8, 2),
    ),
    "v2, a sibling's quota does not count": (
        v2("/a", {"a/cpu.max": "max 100000", "b/cpu.max": "100000 100000"}),
        Cpus(8),
    ),
    "v2, host's path without a namespace": (
        v2(
            "/docker/a1/inner",
            {"inner/cpu.max": "max 100000", "cpu.max": "300000 100000"},
            V2.replace(" / /sys", " /docker/a1 /sys"),
        ),
        Cpus(8, 3),
    ),
    "v2, above the namespace": (v2("/../b", {"cpu.max": "100000 100000"}), Cpus(8, 1)),
    "v2, a mount with a space": (
        v2("/", {}, r"30 23 0:26 / /c\040g rw - cgroup2 none rw") | {"c g/cpu.max": "50000 100000"},
        Cpus(8, 0.5),
    ),
    "v2, cpuset": (v2("/", {"cpuset.cpus.effective": "0-1,5\n"}), Cpus(3)),
    "v2, cpuset and quota": (
        v2("/", {"cpuset.cpus.effective": "0-5", "cpu.max": "250000 100000"}),
        Cpus(6, 2.5),
    ),
    "v2, cpuset of the parent where the own one is empty": (
        v2("/a", {"a/cpuset.cpus.effective": "\n", "cpuset.cpus.effective": "2-3"}),
        Cpus(2),
    ),
    "v2, nonsense for a cpuset": (v2("/", {"cpuset.cpus.effective": "0-x"}), Cpus(8)),
    "v2, cpuset outside of the affinity": (v2("/", {"cpuset.cpus.effective": "8-9"}), Cpus(8)),
    "v1, no limit": (
        V1_TREE
        | {
            f"{CPU}/docker/a1/cpu.cfs_quota_us": "-1",
            f"{CPU}/docker/a1/cpu.cfs_period_us": "100000",
        },
        Cpus(8),
    ),
    "v1, half a CPU": (
        V1_TREE
        | {
            f"{CPU}/docker/a1/cpu.cfs_quota_us": "50000",
            f"{CPU}/docker/a1/cpu.cfs_period_us": "100000",
        },
        Cpus(8, 0.5),
    ),
    "v1, quota of the parent": (
        V1_TREE
        | {
            f"{CPU}/docker/a1/cpu.cfs_quota_us": "-1",
            f"{CPU}/docker/a1/cpu.cfs_period_us": "100000",
            f"{CPU}/docker/cpu.cfs_quota_us": "400000",
            f"{CPU}/docker/cpu.cfs_period_us": "100000",
        },
        Cpus(8, 4),
    ),
    "v1, cpuset": (V1_TREE | {"sys/fs/cgroup/cpuset/docker/a1/cpuset.cpus": "4-7"}, Cpus(4)),
    "both, the quota in version 1": (
        {
            "proc/self/mountinfo": f"{V1_CPU}\n{V2.replace('/sys/fs/cgroup', '/sys/fs/unified')}",
            "proc/self/cgroup": "1:cpu,cpuacct:/\n0::/",
            f"{CPU}/cpu.cfs_quota_us": "200000",
            f"{CPU}/cpu.cfs_period_us": "100000",
        },
        Cpus(8, 2),
    ),
}


@pytest.mark.parametrize(("files", "cpus"), TREES.values(), ids=TREES)
def test_cgroup_tree(tmp_path: Path, files: Mapping[str, str], cpus: Cpus) -> None:
    """Quota and cpuset of the process's cgroup and its ancestors are found, whatever the layout."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert read_cpus(tmp_path, EIGHT) == cpus


@pytest.mark.parametrize(
    ("cpus", "usable", "text"),
    [
        (Cpus(8), 8, "8 CPUs"),
        (Cpus(8, 1.5), 2, "2 CPUs of a quota of 1.5"),
        (Cpus(8, 0.25), 1, "1 CPU of a quota of 0.25"),
        (Cpus(2, 16), 2, "2 CPUs of a quota of 16"),
    ],
)
def test_usable_cpus(cpus: Cpus, usable: int, text: str) -> None:
    """A quota is rounded up, never to none, and never above what affinity allows."""
    assert cpus.usable == usable
    assert str(cpus) == text


def test_this_machine_is_read() -> None:
    """Whatever the machine has, there is a CPU, and no more than the affinity mask says."""
    assert 1 <= read_cpus().usable <= len(os.sched_getaffinity(0))
