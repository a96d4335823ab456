"""A backend whose runs go through buffers that are kept, a set or more for each bucket."""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import numpy as np

from service.errors import BackendError, LoadError
from service.inference.backend import Backend, Interrupt
from service.runtime.buckets import bucket_of
from service.runtime.buffers import Buffers, GraphBuffers, HostBuffers, Layout, layout_of
from service.runtime.pinning import pin_for_cuda
from service.runtime.providers import CUDA
from service.runtime.session import OnnxBackend, Session
from service.tensors import Signature, Tensors

_WARM_RUNS: Final = 2  # onnxruntime captures a CUDA graph in the second run at the latest


def backend_of(session: Session, signature: Signature, sizes: Sequence[int]) -> Backend:
    """Return the backend that suits the device of a session, warm if it has buffers.

    sizes: batches for which a GPU keeps buffers.
    Raises LoadError if CUDA graphs are wanted and the model cannot be captured.
    """
    if session.provider != CUDA:
        return OnnxBackend(session, signature)
    config = session.config

    def buffers(layout: Layout) -> Buffers:
        if config.cuda_graphs:
            return GraphBuffers(session, layout, config.cuda_device, pin_for_cuda)
        return HostBuffers(session, layout, pin_for_cuda)

    try:
        bound = BoundBackend(session, signature, sizes, buffers, one_at_a_time=config.cuda_graphs)
        bound.warm_up()
    except (LoadError, BackendError) as error:  # `warm_up` has freed what it made
        if config.cuda_graphs:
            raise LoadError(f"no CUDA graph can be captured: {error}") from error
        return OnnxBackend(session, signature)
    return bound


class BoundBackend:
    """Backend of a session by buffers; see Backend. Unusual inputs go around them."""

    def __init__(
        self,
        session: Session,
        signature: Signature,
        sizes: Sequence[int],
        make: Callable[[Layout], Buffers],
        *,
        one_at_a_time: bool,
    ) -> None:
        """sizes: of the buckets. make: buffers of a layout. one_at_a_time: no run beside another.

        Raises LoadError if the signature leaves the size of a buffer open.
        """
        self._session = session
        self._signature = signature
        self._layouts = {size: layout_of(signature, size) for size in sizes}
        self._make = make
        self._idle: dict[int, list[Buffers]] = {size: [] for size in sizes}
        # onnxruntime forbids a run beside another on a session with CUDA graphs, which is the
        # one reason to hold a lock while a session runs.
        self._turn: AbstractContextManager[object] = (
            threading.Lock() if one_at_a_time else nullcontext()
        )

    @property
    def signature(self) -> Signature:
        """Return what the model takes and gives."""
        return self._signature

    def warm_up(self) -> None:
        """Run each bucket on zeros, so that its buffers are there and its graph is captured.

        Raises BackendError if one fails; no buffer is left then.
        """
        names = [spec.name for spec in self._signature.outputs]
        try:
            for layout in self._layouts.values():
                zeros = {name: np.zeros(*slot) for name, slot in layout.inputs.items()}
                for _ in range(_WARM_RUNS):
                    self.run(zeros, names, Interrupt())
        except BaseException:
            self._free()
            raise

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run the model once; see Backend.run."""
        rows = len(next(iter(inputs.values()))) if self._signature.batched else None
        size = bucket_of(rows or 1, self._layouts)
        if size is None:
            with self._turn:
                return self._session.run(inputs, outputs, interrupt)
        with self._turn:
            buffers = self._take(size)
            try:
                result = buffers.run(inputs, rows, outputs, interrupt)
            except BaseException:  # whatever it is, they may be half written
                buffers.close()
                raise
            self._idle[size].append(buffers)
            return result

    def close(self) -> None:
        """Free the buffers, then the session."""
        self._free()
        self._session.close()

    def _free(self) -> None:
        for stack in self._idle.values():
            while stack:
                stack.pop().close()

    def _take(self, size: int) -> Buffers:
        try:
            return self._idle[size].pop()
        except IndexError:
            return self._make(self._layouts[size])
