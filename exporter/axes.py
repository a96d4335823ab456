"""Free axes found by comparing samples: an extent that moves between two of them is free.

Axes that always have the same extents share a name, which is how an exporter is told that two
inputs have the same length.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from exporter.errors import UsageError
from exporter.inputs import BATCH, DynamicAxes
from service.errors import dims, listed
from service.tensors import Tensors


def infer_axes(samples: Sequence[Tensors], *, batch: bool) -> DynamicAxes:
    """Return the name of each free axis besides the batch, by input and axis.

    samples: inputs by name, at least two that differ where the model's size is free.
    batch: axis 0 is the batch, whatever the samples show.
    Raises UsageError if the samples have other inputs, types or numbers of axes.
    """
    first = samples[0]
    for number, sample in enumerate(samples[1:], start=2):
        _check_alike(first, sample, number)
    moving: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for name, array in first.items():
        for axis in range(1 if batch else 0, array.ndim):
            extents = tuple(sample[name].shape[axis] for sample in samples)
            if len(set(extents)) > 1:
                moving.setdefault(extents, []).append((name, axis))
    free: dict[str, dict[int, str]] = {}
    for places in moving.values():
        label = f"{places[0][0]}_{places[0][1]}"
        for name, axis in places:
            free.setdefault(name, {})[axis] = label if label != BATCH else f"{label}_"
    return free


def as_samples(given: Sequence[Mapping[str, object]]) -> list[Tensors]:
    """Return samples as arrays. Raises UsageError unless each is inputs by name."""
    samples = []
    for number, sample in enumerate(given, start=1):
        if not isinstance(sample, Mapping):
            raise UsageError(
                f"sample {number} is a {type(sample).__name__}; expected arrays by input name",
            )
        samples.append({str(name): np.asarray(value) for name, value in sample.items()})
    return samples


def _check_alike(first: Tensors, sample: Tensors, number: int) -> None:
    if sample.keys() != first.keys():
        raise UsageError(
            f"sample {number} has the inputs {listed(sorted(sample))}, the first has "
            f"{listed(sorted(first))}; each needs all of them",
        )
    for name, array in first.items():
        other = sample[name]
        if other.dtype != array.dtype or other.ndim != array.ndim:
            raise UsageError(
                f"sample {number}: '{name}' is {other.dtype}{dims(other.shape)}, in the first it "
                f"is {array.dtype}{dims(array.shape)}; type and number of axes must be the same",
            )
