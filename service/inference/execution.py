"""One execution of a batch: join, run, split. Knows no queue and no thread."""

import time
from collections.abc import Callable, Sequence

from service.errors import BackendError
from service.inference.backend import Backend, Interrupt
from service.inference.batch import join_inputs, split_batch
from service.inference.request import Request
from service.observability.stats import BatchTiming
from service.tensors import Tensors


def run_batch(
    backend: Backend,
    members: Sequence[Request],
    inputs: Sequence[Tensors],
    interrupt: Interrupt,
    started: int,
) -> tuple[BatchTiming, list[Tensors]]:
    """Run requests as one batch and return how long it took and each one's outputs.

    inputs: of the members, in their order. started: when they were claimed, of perf_counter_ns.
    The outputs are all that any member wants.
    Raises BackendError, whatever goes wrong.
    """
    wanted = members[0].outputs
    if len(members) > 1:
        wanted = tuple(dict.fromkeys(name for request in members for name in request.outputs))
    rows = [request.rows for request in members]
    is_batched = backend.signature.batched
    try:
        batch = join_inputs(inputs)
        assembled = time.perf_counter_ns()
        outputs = backend.run(batch, wanted, interrupt)
        ran = time.perf_counter_ns()
        parts = split_batch(outputs, rows) if is_batched else [outputs]
    except BackendError:
        raise
    except Exception as error:  # a fault of ours must not end the thread and strand callers
        raise BackendError(f"unexpected {type(error).__name__}: {error}") from error
    done = time.perf_counter_ns()
    idle = sum([request.idle_rows for request in members])
    timing = BatchTiming(sum(rows), assembled - started, ran - assembled, done - ran, idle)
    return timing, parts


def live_members(
    requests: Sequence[Request], fail: Callable[[Request, Exception], None]
) -> tuple[list[Request], list[Tensors]]:
    """Return the requests that have not ended, with their inputs: an end empties these.

    fail: ends a request whose inputs cannot be had, for want of memory perhaps.
    """
    live, inputs = [], []
    for request in requests:
        try:
            claimed = request.claim()
        except Exception as error:  # noqa: BLE001  it must not harm its batch mates
            fail(request, error)
            continue
        if not request.ended:
            live.append(request)
            inputs.append(claimed)
    return live, inputs
