"""Buffers that runs of a session are bound to, again and again: of the host, or of the device.

HostBuffers are page-locked; ONNX Runtime copies between them and the GPU as part of the run.
GraphBuffers lie on the device at addresses that never change, as a captured CUDA graph needs it.
Both also work on the CPU, where they gain nothing and the tests run them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from service.errors import LoadError
from service.inference.backend import Interrupt
from service.runtime.pinning import Pin
from service.runtime.providers import CUDA
from service.runtime.session import Session
from service.tensors import BF16, BYTES, Shape, Signature, Tensors, TensorSpec

_Slots: TypeAlias = Mapping[str, tuple[Shape, npt.DTypeLike]]
_graph_ids: Final = count(1)  # 0 is what onnxruntime takes for a run that names no graph


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape and type of every buffer of a bucket, by name. The batch is part of the shapes."""

    inputs: _Slots
    outputs: _Slots


def layout_of(signature: Signature, rows: int) -> Layout:
    """Return the buffers for batches of up to so many rows; rows mean nothing without a batch.

    Raises LoadError if a tensor has an extent that is not known beforehand, elements of no fixed
    size, or may be left out.
    """

    def slots(specs: Sequence[TensorSpec]) -> _Slots:
        return {spec.name: (_extents(signature, spec, rows), spec.datatype.numpy) for spec in specs}

    return Layout(slots(signature.inputs), slots(signature.outputs))


def _extents(signature: Signature, spec: TensorSpec, rows: int) -> Shape:
    if spec.optional:  # ONNX Runtime binds no input that has a default
        raise LoadError(f"'{spec.name}' is optional: buffers need inputs that are always there")
    shape = (rows, *spec.shape[1:]) if signature.batched else spec.shape
    if any(extent < 0 for extent in shape) or spec.datatype in (BYTES, BF16):
        raise LoadError(
            f"'{spec.name}' is {spec.datatype}{list(spec.shape)}: buffers need extents that are "
            "known beforehand, but for the batch, and neither BYTES nor BF16",
        )
    return shape


class Buffers(Protocol):
    """The buffers of one run at a time."""

    def run(
        self, inputs: Tensors, rows: int | None, outputs: Sequence[str], interrupt: Interrupt
    ) -> Tensors:
        """Run on these inputs and return copies of the outputs asked for.

        inputs: all of them, with so many rows in axis 0; rows is None where there is no batch.
        Raises as Backend.run does; the buffers are then good for nothing but `close`.
        """

    def close(self) -> None:
        """Free them. Nothing runs on them any more."""


class HostBuffers:
    """Buffers of the host, used up to the rows of each run."""

    def __init__(self, session: Session, layout: Layout, pin: Pin) -> None:
        self._session = session
        self._binding: ort.IOBinding = session.io_binding()
        self._inputs = {name: np.zeros(*slot) for name, slot in layout.inputs.items()}
        self._outputs = {name: np.zeros(*slot) for name, slot in layout.outputs.items()}
        self._unpins = [pin(array) for array in (*self._inputs.values(), *self._outputs.values())]
        self._bound: tuple[int | None] | None = None  # rows that the binding is for

    def run(
        self, inputs: Tensors, rows: int | None, outputs: Sequence[str], interrupt: Interrupt
    ) -> Tensors:
        """Run on so many rows; see Buffers.run."""
        part = _part(rows)
        for name, array in inputs.items():
            self._inputs[name][part] = array
        if self._bound != (rows,):
            self._bind(rows)
        self._session.run_bound(self._binding, interrupt)
        return {name: self._outputs[name][part].copy() for name in outputs}

    def close(self) -> None:
        """Give the memory back to the pager."""
        for unpin in self._unpins:
            unpin()
        self._unpins.clear()

    def _bind(self, rows: int | None) -> None:
        for name, buffer in self._inputs.items():
            self._binding.bind_cpu_input(name, buffer[_part(rows)])
        for name, buffer in self._outputs.items():
            part = buffer[_part(rows)]
            self._binding.bind_output(name, "cpu", 0, part.dtype, part.shape, part.ctypes.data)
        self._bound = (rows,)


class GraphBuffers:
    """Buffers of the device with a CUDA graph of their own. A batch is padded with zeros."""

    def __init__(self, session: Session, layout: Layout, device_id: int, pin: Pin) -> None:
        self._session = session
        self._graph = next(_graph_ids)
        self._binding: ort.IOBinding = session.io_binding()
        device = ("cuda", device_id) if session.provider == CUDA else ("cpu", 0)
        self._host = {name: np.zeros(*slot) for name, slot in layout.inputs.items()}
        self._unpins = [pin(array) for array in self._host.values()]
        self._inputs, self._outputs = (
            {
                name: ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, *device)
                for name, (shape, dtype) in slots.items()
            }
            for slots in (layout.inputs, layout.outputs)
        )
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def run(
        self, inputs: Tensors, rows: int | None, outputs: Sequence[str], interrupt: Interrupt
    ) -> Tensors:
        """Run the whole bucket; see Buffers.run."""
        for name, array in inputs.items():
            host = self._host[name]
            host[_part(rows)] = array
            if rows is not None:
                host[rows:] = 0
            self._inputs[name].update_inplace(host)
        self._session.run_bound(self._binding, interrupt, self._graph)
        # On the CPU, numpy() is a view on the buffer.
        return {name: np.array(self._outputs[name].numpy()[_part(rows)]) for name in outputs}

    def close(self) -> None:
        """Free the graph and give the memory back to the pager."""
        self._session.release_graph(self._graph)
        for unpin in self._unpins:
            unpin()
        self._unpins.clear()


def _part(rows: int | None) -> Any:
    """Return the index of so many rows, or of everything, also where there is no axis."""
    return ... if rows is None else slice(rows)
