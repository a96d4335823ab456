"""Inputs of a model: names, examples and free axes. Knows numpy; no torch, no ONNX."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np

from exporter.errors import UsageError
from service.errors import dims, listed
from service.tensors import BF16, BYTES, DATATYPES, Array, Datatype

BATCH: Final = "batch"  # the name of the batch axis in every exported graph
TENSOR_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}")
TENSOR_NAME_RULE: Final = "a letter or '_', then up to 127 letters, digits, '_', '-' or '.'"
_BY_NUMPY: Final[Mapping[np.dtype[Any], Datatype]] = {
    datatype.numpy: datatype for datatype in DATATYPES if datatype not in (BF16, BYTES)
}

Ranges: TypeAlias = Mapping[str, tuple[float, float]]
DynamicAxes: TypeAlias = Mapping[str, Mapping[int, str]]


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the model.

    example: contiguous; its extents stand for the free ones too. axes: name by axis of every free
    extent. low, high: bounds of random values (inclusive for integers); None: the example's.
    """

    name: str
    example: Array
    axes: Mapping[int, str] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None

    @property
    def datatype(self) -> Datatype:
        """Return the element type."""
        return datatype_of(self.name, self.example.dtype)

    @property
    def batch_axis(self) -> int | None:
        """Return the axis of the batch; None if the model has none."""
        return next((axis for axis, name in self.axes.items() if name == BATCH), None)


Inputs: TypeAlias = tuple[Input, ...]


def make_inputs(
    examples: Mapping[str, Array],
    *,
    batch: bool,
    dynamic_axes: DynamicAxes | None = None,
    ranges: Ranges | None = None,
) -> Inputs:
    """Return the inputs, in the order of the examples.

    batch: axis 0 of every input is the batch, unless another one is called so, as in the state of
    a GRU. dynamic_axes: further free axes, by input name.
    ranges: lowest and highest random value, by input name.
    Raises UsageError where they do not fit each other.
    """
    check_names("input", list(examples))
    free, bounds = dict(dynamic_axes or {}), dict(ranges or {})
    for what, given in (("dynamic axes", free), ("ranges", bounds)):
        unknown = sorted(set(given) - set(examples))
        if unknown:
            raise UsageError(
                f"{what} for {listed(unknown)}, but the inputs are {listed([*examples])}"
            )
    return tuple(
        _input(name, np.ascontiguousarray(array) if array.ndim else array, free.get(name, {}),
               bounds.get(name, (None, None)), batch=batch)
        for name, array in examples.items()
    )  # fmt: skip


def check_names(kind: str, names: Sequence[str]) -> None:
    """Raise UsageError unless every name can name a tensor and none stands twice."""
    for name in names:
        if not TENSOR_NAME.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot name an {kind}: {TENSOR_NAME_RULE}; give names with "
                f"--{kind} or {kind}_names=",
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{kind} names {listed(twice)} are given twice")


def datatype_of(name: str, dtype: np.dtype[Any]) -> Datatype:
    """Return the datatype of an array; raise UsageError if the protocol or the runtime has none."""
    try:
        return _BY_NUMPY[dtype]
    except KeyError:
        known = ", ".join(str(dtype) for dtype in _BY_NUMPY)
        raise UsageError(
            f"'{name}' is {dtype}, which inference requests cannot carry; expected one of {known}",
        ) from None


def _input(
    name: str,
    example: Array,
    free: Mapping[int, str],
    bounds: tuple[float | None, float | None],
    *,
    batch: bool,
) -> Input:
    datatype_of(name, example.dtype)
    wrong = sorted(axis for axis in free if not 0 <= axis < example.ndim)
    if wrong:
        raise UsageError(
            f"input '{name}' has no axis {wrong[0]}: its example has shape {dims(example.shape)}",
        )
    if not batch:
        return Input(name, example, dict(free), *bounds)
    named = sorted(axis for axis, label in free.items() if label == BATCH)
    if len(named) > 1:
        raise UsageError(f"input '{name}': axes {listed([*map(str, named)])} are called '{BATCH}'")
    axis = named[0] if named else 0
    if example.ndim == 0 or example.shape[axis] == 0:
        raise UsageError(
            f"input '{name}' has shape {dims(example.shape)}: axis {axis} must be the batch, with "
            "at least one row; say --no-batch (batch=False) for a model without one",
        )
    return Input(name, example, {**free, axis: BATCH}, *bounds)
