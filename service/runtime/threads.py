"""How many threads a run of each model gets: a pure function of the CPUs and of what is served.

A session of n intra-op threads is the caller and n - 1 threads of a pool. Instances are callers of
one session, so that i of them keep i + n - 1 threads busy.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from service.runtime.cpus import Cpus


@dataclass(frozen=True, slots=True)
class Demand:
    """A model that is served: versions of it, and batches of each that may run at once.

    intra_op_threads: what its config.pbtxt asks for; 0: nothing. spinning: likewise; None: nothing.
    on_gpu: its CPU threads only start kernels and copy.
    """

    model: str
    instances: int = 1
    versions: int = 1
    intra_op_threads: int = 0
    spinning: bool | None = None
    on_gpu: bool = False


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """Threads of one run. spinning: whether those of the pool wait for work on the CPU.

    is_share: nobody asked for this number.
    """

    threads: int
    spinning: bool
    reason: str
    is_share: bool = False

    def __str__(self) -> str:
        threads = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        return f"{threads} a run, spinning {'on' if self.spinning else 'off'} ({self.reason})"


# For a model whose runs are over before another thread is awake.
ONE_THREAD: Final = ThreadPlan(1, spinning=False, reason="its runs are too short for more")


def plan_threads(cpus: Cpus, demands: Iterable[Demand], override: int = 0) -> dict[str, ThreadPlan]:
    """Give each model its threads, by name.

    The CPUs are divided over the instances of all versions of all models that ask for no number
    themselves. override: threads of every such model instead, if not 0.
    """
    demands = list(demands)
    runs = sum(demand.instances * demand.versions for demand in demands if _takes_share(demand))
    return {demand.model: _plan(cpus, demand, runs, override) for demand in demands}


def _takes_share(demand: Demand) -> bool:
    return not (demand.intra_op_threads or demand.on_gpu)


def _plan(cpus: Cpus, demand: Demand, runs: int, override: int) -> ThreadPlan:
    is_share = False
    if demand.intra_op_threads:
        threads, reason = demand.intra_op_threads, "intra_op_thread_count in config.pbtxt"
    elif override:
        threads, reason = override, "--threads"
    elif demand.on_gpu:
        threads, reason = 1, "on the GPU"
    else:
        share = cpus.usable * demand.instances // max(1, runs)
        threads, is_share = max(1, share - demand.instances + 1), True
        reason = str(cpus) if runs == 1 else f"{cpus} for {runs} instances"
    # Spinning threads burn CPUs that other models and the network need: only for who asks for it.
    return ThreadPlan(threads, bool(demand.spinning) and threads > 1, reason, is_share)
