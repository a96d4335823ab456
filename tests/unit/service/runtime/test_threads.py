"""Threads of a run: the CPUs divided over what is served."""

from collections.abc import Sequence

import pytest

from service.runtime.cpus import Cpus
from service.runtime.threads import Demand, plan_threads

PLANS: dict[str, tuple[Cpus, Sequence[Demand], int, dict[str, int]]] = {
    "a lone model has all": (Cpus(16), [Demand("a")], 0, {"a": 16}),
    "a quota counts, not the cores": (Cpus(64, 3.5), [Demand("a")], 0, {"a": 4}),
    "two models share": (Cpus(16), [Demand("a"), Demand("b")], 0, {"a": 8, "b": 8}),
    "nobody has less than one": (
        Cpus(2),
        [Demand(name) for name in "abcd"],
        0,
        dict.fromkeys("abcd", 1),
    ),
    "versions count": (Cpus(8), [Demand("a", versions=3), Demand("b")], 0, {"a": 2, "b": 2}),
    # Two callers of one session and its 3 threads are the 5 that fit beside each other on 5 CPUs.
    "instances are callers": (Cpus(5), [Demand("a", instances=2)], 0, {"a": 4}),
    "more instances than CPUs": (Cpus(4), [Demand("a", instances=16)], 0, {"a": 1}),
    "instances have weight": (
        Cpus(16),
        [Demand("a"), Demand("b", instances=3)],
        0,
        {"a": 4, "b": 10},
    ),
    "config.pbtxt wins and leaves the rest to others": (
        Cpus(8),
        [Demand("a", intra_op_threads=2), Demand("b")],
        5,
        {"a": 2, "b": 5},
    ),
    "--threads is for each": (Cpus(8), [Demand("a"), Demand("b")], 3, {"a": 3, "b": 3}),
    "a model on the GPU needs one": (
        Cpus(8),
        [Demand("a", on_gpu=True), Demand("b")],
        0,
        {"a": 1, "b": 8},
    ),
    "a model without versions": (Cpus(8), [Demand("a", versions=0)], 0, {"a": 8}),
    "nothing is served": (Cpus(8), [], 0, {}),
}  # fmt: skip


@pytest.mark.parametrize(("cpus", "demands", "override", "threads"), PLANS.values(), ids=PLANS)
def test_plan(
    cpus: Cpus, demands: Sequence[Demand], override: int, threads: dict[str, int]
) -> None:
    """Each model gets its share of the CPUs."""
    plans = plan_threads(cpus, demands, override)
    assert {name: plan.threads for name, plan in plans.items()} == threads


@pytest.mark.parametrize(
    ("demand", "override", "text"),
    [
        (Demand("a"), 0, "4 threads a run, spinning off (4 CPUs of a quota of 3.5)"),
        (Demand("a", 2), 0,
         "3 threads a run, spinning off (4 CPUs of a quota of 3.5 for 2 instances)"),
        (Demand("a"), 2, "2 threads a run, spinning off (--threads)"),
        (Demand("a", intra_op_threads=1), 0,
         "1 thread a run, spinning off (intra_op_thread_count in config.pbtxt)"),
        (Demand("a", spinning=True), 2, "2 threads a run, spinning on (--threads)"),
        (Demand("a", spinning=True), 1, "1 thread a run, spinning off (--threads)"),
        (Demand("a", on_gpu=True), 0, "1 thread a run, spinning off (on the GPU)"),
    ],
)  # fmt: skip
def test_reason(demand: Demand, override: int, text: str) -> None:
    """The log says how many threads, whether they spin, and why; one alone has none to spin."""
    assert str(plan_threads(Cpus(8, 3.5), [demand], override)["a"]) == text
