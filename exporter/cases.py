"""Cases of the proof: inputs of several sizes and what the source itself makes of them.

Rows come from the example first, then from seeded random data in its range. Knows numpy and a
function that runs the source; knows no framework.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import numpy as np

from exporter.errors import ConversionFailed, UsageError
from exporter.inputs import BATCH, Input, Inputs
from exporter.masks import convention_of, random_mask
from service.tensors import BOOL, Array, Tensors

# Runs the source: one array for each output. Explained errors are raised as ConversionFailed.
Reference: TypeAlias = Callable[[Tensors], Sequence[Array]]
# Words for an error that the source raised: the error, the situation, a way out.
Explain: TypeAlias = Callable[[Exception, str, str], str]

# Smallest and largest size of a free axis, by its name.
Limits: TypeAlias = Mapping[str, tuple[int, int]]

_OTHER_SIZES: Final = 3  # besides the example's: two would let a fixed ratio pass
_LEAST_OTHER_SIZES: Final = 2
_SMALL_BATCHES: Final = (1, 2, 3)  # 1 may be broadcast, 2 may be the example, 3 is neither


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs by name and the outputs that the source gave for them.

    rows: extent of the batch, 0 if the model has none. batch_axes: of the tensors whose batch is
    not on axis 0.
    """

    rows: int
    inputs: Tensors
    outputs: Tensors
    batch_axes: Mapping[str, int] = field(default_factory=dict)

    def row(self, tensors: Tensors, number: int) -> Tensors:
        """Return one row of tensors of this case, as a batch of one."""
        return {
            name: array.take([number], self.batch_axes.get(name, 0))
            for name, array in tensors.items()
        }


def make_cases(  # noqa: PLR0913 (what is run, on what, at which sizes)
    reference: Reference,
    inputs: Inputs,
    output_names: Sequence[str],
    *,
    max_batch_size: int,
    seed: int,
    explain: Explain | None = None,
    batches: Sequence[int] = (),
    limits: Limits | None = None,
) -> tuple[Case, ...]:
    """Run the source at every size that is to be proved.

    max_batch_size: the largest batch, 0 for a model without batches; then the sizes are those of
    the example, with its own data and with random data.
    batches: further sizes of batches. limits: smallest and largest size of an axis by its name;
    both are tried. Axes other than the batch take at least two other sizes than the example's.
    Raises ConversionFailed if the source refuses these sizes.
    """
    random = np.random.default_rng(seed)
    wanted = (b for b in (*_SMALL_BATCHES, *batches) if b <= max_batch_size)
    rows = sorted({*wanted, max_batch_size})
    other_sizes = _other_sizes(reference, inputs, random, limits or {})
    sizes: list[dict[str, int]] = [{BATCH: batch} for batch in rows if batch] or [{}, {}]
    sizes += [{**sizes[min(1, len(sizes) - 1)], **other} for other in other_sizes]
    cases = []
    for index, size in enumerate(sizes):
        # Without a batch the first case is the example itself, the others are random.
        keep = bool(max_batch_size) or index == 0
        arrays = {item.name: _resized(item, size, random, keep=keep) for item in inputs}
        outputs = _run(reference, arrays, output_names, size, explain or plainly)
        cases.append(Case(size.get(BATCH, 0), arrays, outputs))
    return tuple(cases)


def random_inputs(inputs: Inputs, size: Mapping[str, int], random: np.random.Generator) -> Tensors:
    """Return random data in the range of the examples, with the named axes at these sizes."""
    return {item.name: _resized(item, size, random, keep=False) for item in inputs}


def plainly(error: Exception, situation: str, way_out: str) -> str:
    """Say what the source raised, where no framework knows better; see Explain."""
    text = " ".join(str(error).split())
    return f"the model itself fails {situation}: {type(error).__name__}: {text}\n  {way_out}"


def _other_sizes(
    reference: Reference, inputs: Inputs, random: np.random.Generator, limits: Limits
) -> list[dict[str, int]]:
    """Return sizes of the named axes besides the batch that the source takes; [] without such."""
    example = {
        name: int(item.example.shape[axis])
        for item in inputs
        for axis, name in item.axes.items()
        if name != BATCH
    }
    unknown = sorted(set(limits) - set(example))
    if unknown:
        raise UsageError(
            f"limits for the axis '{unknown[0]}', but the free axes are "
            f"{', '.join(sorted(example)) or 'none besides the batch'}",
        )
    if not example:
        return []
    for name, (low, high) in limits.items():
        if not 1 <= low <= example[name] <= high:
            raise UsageError(
                f"the axis '{name}' is {example[name]} in the example, but {low} to {high} by its "
                "limits; give an example within them",
            )
    must = [{**example, **{name: bounds[end] for name, bounds in limits.items()}} for end in (1, 0)]
    candidates = [
        {name: _within(resize(extent), limits.get(name)) for name, extent in example.items()}
        for resize in (lambda n: 2 * n, lambda n: n + 1, lambda _: 1, lambda n: 3 * n)
    ]
    taken = [size for size in must if limits and size != example]
    for size in candidates:
        if len(taken) == _OTHER_SIZES:
            break
        if size not in (example, *taken) and _takes(reference, inputs, size, random):
            taken.append(size)
    # A narrow range may not have three sizes; then all of it is tried.
    if len(taken) < _LEAST_OTHER_SIZES and not limits:
        raise ConversionFailed(
            f"the axes {', '.join(sorted(example))} are said to be free, but besides "
            f"{_sizes(example)} the model takes {'only ' if taken else 'none of '}"
            + "; ".join(_sizes(size) for size in taken or candidates)
            + ". Give the sizes that it takes with --axis NAME=LOW..HIGH (limits=), or give a "
            "number for the axis",
        )
    return taken


def _within(size: int, limits: tuple[int, int] | None) -> int:
    return size if limits is None else max(limits[0], min(size, limits[1]))


def _takes(
    reference: Reference, inputs: Inputs, size: Mapping[str, int], random: np.random.Generator
) -> bool:
    try:
        reference({item.name: _resized(item, size, random, keep=True) for item in inputs})
    except Exception:  # noqa: BLE001 (whatever the source raises, it does not take this size)
        return False
    return True


def _run(
    reference: Reference,
    arrays: Tensors,
    output_names: Sequence[str],
    size: Mapping[str, int],
    explain: Explain,
) -> Tensors:
    try:
        # Copies for the source, which may write into what it is given.
        found = reference({name: array.copy() for name, array in arrays.items()})
    except Exception as error:  # whatever the source raises
        way_out = (
            "If it only runs at the size of the example, say --no-batch (batch=False); if it "
            "refuses random values, give their range: NAME:TYPE[...]=LOW..HIGH (ranges=)."
        )
        raise ConversionFailed(explain(error, f"at {_sizes(size)}", way_out)) from error
    if len(found) != len(output_names):
        raise ConversionFailed(
            f"forward returns {len(found)} outputs at {_sizes(size)}, but {len(output_names)} for "
            "the example; a served model always returns the same ones",
        )
    return dict(zip(output_names, found, strict=True))


def _sizes(size: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={extent}" for name, extent in size.items()) or "the example's size"


def _resized(
    item: Input, size: Mapping[str, int], random: np.random.Generator, *, keep: bool
) -> Array:
    """Return data for an input with its named axes at these sizes.

    keep: take as much from the example as fits; random data fills the rest.
    """
    example = item.example
    shape = [size.get(item.axes.get(axis, ""), extent) for axis, extent in enumerate(example.shape)]
    data = _random(item, example, shape, random)
    if keep:
        common = tuple(slice(min(a, b)) for a, b in zip(shape, example.shape, strict=True))
        data[common] = example[common]
    return data


def _random(
    item: Input, example: Array, shape: Sequence[int], random: np.random.Generator
) -> Array:
    convention = convention_of(item.name, example.ndim)
    if convention is not None:
        return random_mask(convention, shape, random).astype(example.dtype)
    if item.datatype is BOOL:
        return random.integers(0, 2, shape).astype(np.bool_)
    low, high = _range(item, example)
    if np.issubdtype(example.dtype, np.integer):
        whole = np.asarray(random.integers(int(low), int(high), shape, np.int64, endpoint=True))
        return whole.astype(example.dtype)
    return np.asarray(random.uniform(low, high, shape)).astype(example.dtype)


def _range(item: Input, example: Array) -> tuple[float, float]:
    finite = example[np.isfinite(example)]
    low = float(finite.min()) if item.low is None and finite.size else (item.low or 0.0)
    high = float(finite.max()) if item.high is None and finite.size else (item.high or 0.0)
    if low > high:
        raise UsageError(f"input '{item.name}': the lower bound {low} is above the upper {high}")
    # An example of equal values, as torch.zeros gives it, says nothing of the range.
    return (low, high) if low < high else (low, low + 1)
