"""The backend of a model with states: batch first outside, as its graph wants it inside.

On a GPU a step that runs alone leaves its states on the device, where the next one finds them. In
a batch of several sequences they go through the host, for it is put together there.
"""

from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import onnxruntime as ort

from service.inference.backend import Interrupt
from service.repository.sequences import StateSpec
from service.runtime.providers import CUDA
from service.runtime.session import Session
from service.tensors import BF16, BYTES, Array, Shape, Signature, Tensors

_HOST_ONLY: Final = (BYTES, BF16)  # what an ort.IOBinding takes no numpy array of


class DeviceState:
    """A state of one sequence on the device; an array to whatever reads it on the host."""

    __slots__ = ("_axis", "base", "dtype", "nbytes", "shape", "value")

    def __init__(self, value: ort.OrtValue, axis: int, dtype: np.dtype[Any]) -> None:
        """axis: of the batch in value; the shape is told with the batch first."""
        extents = list(value.shape())
        if axis:
            extents.insert(0, extents.pop(axis))
        self.value = value
        self.shape: Shape = tuple(extents)
        self.dtype = dtype
        self.nbytes = int(np.prod(extents, dtype=np.int64)) * dtype.itemsize
        self.base = None
        self._axis = axis

    @property
    def ndim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:  # noqa: FBT001  numpy's
        """Return a copy on the host, with the batch first."""
        array = np.moveaxis(self.value.numpy(), self._axis, 0) if self._axis else self.value.numpy()
        return np.array(array, dtype) if copy or dtype is not None else array


class StateBackend:
    """Backend of a session whose states have their batch anywhere; see Backend."""

    def __init__(
        self,
        session: Session,
        signature: Signature,
        states: Sequence[StateSpec],
        *,
        binds: bool | None = None,
        owns: bool = True,
    ) -> None:
        """signature: of all that the graph takes and gives, with the batch first.

        binds: leave the states of a step that runs alone on the device; None: if it is a GPU.
        owns: `close` frees the session, which no other backend has.
        """
        self._session = session
        self._owns = owns
        self._signature = signature
        axes = states if signature.batched else ()
        self._into = {s.input: s.axis for s in axes if s.axis}
        self._out_of = {s.output: s.axis for s in axes if s.axis}
        self._kept = {s.output: s.datatype.numpy for s in states}
        on_gpu = session.provider == CUDA
        self._device = ("cuda", session.config.cuda_device) if on_gpu else ("cpu", 0)
        specs = (*signature.inputs, *signature.outputs)
        can_bind = bool(states) and not any(spec.datatype in _HOST_ONLY for spec in specs)
        self._binds = can_bind and (on_gpu if binds is None else binds)
        self._first = states[0].input if states else ""

    @property
    def signature(self) -> Signature:
        """Return what the graph takes and gives, with the batch first."""
        return self._signature

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run the model once; see Backend.run. States may be what a run before has returned."""
        if self._binds and (not self._signature.batched or len_of(inputs[self._first]) == 1):
            return self._run_bound(inputs, outputs, interrupt)
        if self._into:
            inputs = dict(inputs)
            for name, axis in self._into.items():
                inputs[name] = np.moveaxis(np.asarray(inputs[name]), 0, axis)
        if self._binds:
            inputs = {name: np.asarray(array) for name, array in inputs.items()}
        results = self._session.run(inputs, outputs, interrupt)
        for name, axis in self._out_of.items():
            if name in results:
                results[name] = np.moveaxis(results[name], axis, 0)
        return results

    def close(self) -> None:
        """Free the session, if it is this backend's own."""
        if self._owns:
            self._session.close()

    def _run_bound(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        binding: Any = self._session.io_binding()
        tensors: dict[str, Any] = dict(inputs)
        for name, array in tensors.items():
            if isinstance(array, DeviceState):
                binding.bind_ortvalue_input(name, array.value)
            else:
                axis = self._into.get(name, 0)
                moved = np.moveaxis(array, 0, axis) if axis else array
                binding.bind_cpu_input(name, np.ascontiguousarray(moved))
        for name in outputs:
            binding.bind_output(name, *(self._device if name in self._kept else ("cpu", 0)))
        self._session.run_bound(binding, interrupt)
        return {
            name: self._taken(name, value)
            for name, value in zip(outputs, binding.get_outputs(), strict=True)
        }

    def _taken(self, name: str, value: ort.OrtValue) -> Array:
        dtype = self._kept.get(name)
        if dtype is None:
            array: Array = value.numpy()
            return array
        return cast("Array", DeviceState(value, self._out_of.get(name, 0), dtype))


def len_of(array: Array) -> int:
    """Return the rows of an array or of a state on the device."""
    return int(array.shape[0])
