"""What the graph gets at one step of a sequence: the client's inputs, controls and states."""

from typing import Final

import numpy as np

from service.errors import InvalidRequest
from service.inference.request import Key
from service.inference.sequences.sequence import Step
from service.repository.sequences import Control, ControlSpec, SequenceSpec
from service.tensors import BYTES, INT32, INT64, UINT32, Array, Tensors

_LIMITS: Final = {INT32: (1 << 31) - 1, UINT32: (1 << 32) - 1, INT64: (1 << 63) - 1}


class Assembly:
    """Adds controls and states to the inputs of a step, and takes the states out of its outputs.

    Pure: holds nothing of any sequence.
    """

    def __init__(self, model: str, spec: SequenceSpec, *, batched: bool) -> None:
        self._model = model
        self._skip = 1 if batched else 0
        self._lead = (1,) if batched else ()
        self._initial: Tensors = {state.input: state.initial for state in spec.states}
        self._apart = {s.input: s.axis for s in spec.states if batched and s.axis}
        self._pairs = [(state.input, state.output) for state in spec.states]
        self._flags = [c for c in spec.controls if c.kind is not Control.CORRID]
        self._id = next((c for c in spec.controls if c.kind is Control.CORRID), None)
        self._idle: Tensors = {c.name: c.false for c in self._flags if c.false is not None}
        if self._id is not None:
            self._idle[self._id.name] = self._filled(
                self._id, "" if self._id.datatype is BYTES else 0
            )

    def check_brought(self, inputs: Tensors) -> None:
        """Raise InvalidRequest unless states brought along have as many rows as other inputs.

        Where all have the batch on axis 0 the signature says so, and it was checked.
        """
        if not self._apart:
            return
        name, first = next((n, a) for n, a in inputs.items() if n not in self._initial)
        for state, axis in self._apart.items():
            rows = inputs[state].shape[axis]
            if rows != len(first):
                raise InvalidRequest(
                    f"input '{state}' of model '{self._model}' has {rows} rows on axis {axis}, but "
                    f"'{name}' has {len(first)} on axis 0: there is one state for each row"
                )

    def check_id(self, name: int | str) -> None:
        """Raise InvalidRequest unless an id is of the type that the model takes."""
        control = self._id
        if control is None:
            return
        is_text = isinstance(name, str)
        if is_text is not (control.datatype is BYTES):
            raise InvalidRequest(
                f"sequence batching control '{control.name}' data-type is "
                f"'{'BYTES' if is_text else 'UINT64'}', but model '{self._model}' expects "
                f"'{control.datatype}'"
            )
        most = _LIMITS.get(control.datatype)
        if most is not None and not is_text and int(name) > most:
            raise InvalidRequest(
                f"sequence id {name} does not fit into control '{control.name}' of model "
                f"'{self._model}', which is {control.datatype}: at most {most} expected"
            )

    def inputs(self, step: Step, given: Tensors) -> tuple[Tensors, Key]:
        """Return everything that the graph takes, and the batch key of what is added."""
        states = step.states
        if states is None:
            states = self._initial
        is_set = {Control.START: step.start, Control.END: step.end, Control.READY: True}
        everything = dict(given)
        for control in self._flags:
            value = control.true if is_set[control.kind] else control.false
            if value is not None:
                everything[control.name] = value
        if self._id is not None:
            name = step.sequence.name  # a stream's own sequence has none
            control = self._id
            everything[control.name] = (
                self._filled(control, name) if name else self._idle[control.name]
            )
        everything.update(states)
        return everything, self._key(states)

    def first_inputs(self, given: Tensors, rows: int | None) -> Tensors:
        """Return what the graph takes for inputs whose every row begins a sequence.

        rows: None where there is no batch.
        """
        begins = (Control.START, Control.READY)
        added = {c.name: c.true if c.kind in begins else c.false for c in self._flags}
        if self._id is not None:
            added[self._id.name] = self._idle[self._id.name]
        first = {name: array for name, array in added.items() if array is not None}
        first.update(self._initial)
        if rows is not None:
            first = {name: np.repeat(array, rows, axis=0) for name, array in first.items()}
        return {**given, **first}

    def idle_inputs(self, example: Tensors) -> Tensors:
        """Return the inputs of a row that belongs to no step. example: those of one that does."""
        return {
            name: self._idle[name] if name in self._idle else _nothing(array)
            for name, array in example.items()
        }

    def outputs(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Return what is to be computed for a step of which a client wants so much."""
        return (*wanted, *(output for _, output in self._pairs if output not in wanted))

    def states(self, outputs: Tensors) -> Tensors:
        """Return the states in the outputs of a step. A row of a batch is copied out of it."""
        return {name: _owned(outputs[output]) for name, output in self._pairs}

    def _filled(self, control: ControlSpec, value: int | str) -> Array:
        datatype = control.datatype
        shape = (*self._lead, *control.shape)
        return np.full(shape, value, object if datatype is BYTES else datatype.numpy)

    def _key(self, states: Tensors) -> Key:
        return tuple([(name, array.shape[self._skip :]) for name, array in states.items()])


def _nothing(example: Array) -> Array:
    if example.dtype.hasobject:
        return np.full(example.shape, "", object)
    return np.zeros(example.shape, example.dtype)


def _owned(array: Array) -> Array:
    """Return an array that keeps no larger one alive."""
    base = getattr(array, "base", None)
    if base is not None and getattr(base, "nbytes", array.nbytes) > array.nbytes:
        return array.copy()
    return array
