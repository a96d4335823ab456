"""A request larger than the largest batch: into parts that fit, and their answers into one."""

import threading
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from service.errors import RequestError
from service.inference.request import Outcome, Request, Timings
from service.tensors import Tensors

Fault: TypeAlias = Callable[[Exception], RequestError]


def split_request(request: Request, max_rows: int, fault: Fault) -> list[Request]:
    """Return requests of at most max_rows rows each that together stand for request.

    request: of a batched model; it ends when the last part has ended, or with the first error,
    and its end cancels the parts that are left. The parts hold views on its inputs. In statistics
    the last one stands for all: what ran before it is time that it waited.
    fault: turns an error in joining the answers into what the caller is told.
    """
    starts = range(0, request.rows, max_rows)
    joint = _Joint(request, len(starts), fault)
    for index, start in enumerate(starts):
        rows = min(max_rows, request.rows - start)
        joint.parts.append(
            Request(
                {name: array[start : start + rows] for name, array in request.inputs.items()},
                request.outputs,
                rows=rows,
                on_end=lambda outcome, index=index: joint.part_ended(index, outcome),  # type: ignore[misc]
                deadline=request.deadline,
                priority=request.priority,
                timeout_us=request.timeout_us,
                key=request.key,
            ),
        )
    for part in joint.parts[:-1]:
        part.is_part = True
    request.on_leave = joint.cancel_parts
    return joint.parts


class _Joint:
    """Collects the ends of the parts of one request."""

    def __init__(self, whole: Request, count: int, fault: Fault) -> None:
        self.parts: list[Request] = []
        self._whole = whole
        self._fault = fault
        self._lock = threading.Lock()
        self._outputs: list[Tensors] = [{} for _ in range(count)]
        self._timings = Timings(0, 0)
        self._left = count

    def part_ended(self, index: int, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._whole.fail(outcome.error)
            return
        with self._lock:
            self._outputs[index] = outcome.outputs or {}
            mine, theirs = outcome.timings, self._timings
            self._timings = Timings(
                max(mine.queue_ns, theirs.queue_ns),
                mine.compute_ns + theirs.compute_ns,
                mine.infer_ns + theirs.infer_ns,
                mine.input_ns + theirs.input_ns,
            )
            self._left -= 1
            complete = self._left == 0
        if complete:
            self._join()

    def _join(self) -> None:
        try:
            joined = {
                name: np.concatenate([outputs[name] for outputs in self._outputs])
                for name in self._whole.outputs
            }
        except (ValueError, MemoryError) as error:  # rows of different shapes, or too many
            self._whole.fail(self._fault(error))
            return
        self._whole.complete(joined, self._timings)

    def cancel_parts(self, _whole: Request) -> None:
        for part in self.parts:
            part.cancel()
