"""Cases of the proof: inputs of several sizes and what the module itself makes of them.

Rows come from the example first, then from seeded random data in its range.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from exporter.errors import ConversionFailed, UsageError
from exporter.inputs import BATCH, Input, Inputs, call
from exporter.outputs import flatten
from exporter.translate import explain_failure
from service.tensors import BOOL, Array, Tensors

_SMALL_BATCHES: Final = (1, 2, 3)  # 1 may be broadcast, 2 may be the example, 3 is neither


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs by name and the outputs that the module gave for them.

    rows: extent of the batch, 0 if the model has none.
    """

    rows: int
    inputs: Tensors
    outputs: Tensors


def make_cases(
    module: torch.nn.Module,
    inputs: Inputs,
    output_names: Sequence[str],
    *,
    max_batch_size: int,
    seed: int,
) -> tuple[Case, ...]:
    """Run the module, in eval mode, at every size that is to be proved.

    max_batch_size: the largest batch, 0 for a model without batches; then the sizes are those of
    the example, with its own data and with random data.
    Axes other than the batch take at least one other size than the example's.
    Raises ConversionFailed if the module refuses these sizes.
    """
    random = np.random.default_rng(seed)
    batches = sorted({*(b for b in _SMALL_BATCHES if b <= max_batch_size), max_batch_size})
    other_sizes = _other_sizes(module, inputs, random)
    sizes: list[dict[str, int]] = [{BATCH: batch} for batch in batches if batch] or [{}, {}]
    sizes += [{**sizes[min(1, len(sizes) - 1)], **other} for other in other_sizes]
    cases = []
    for index, size in enumerate(sizes):
        # Without a batch the first case is the example itself, the others are random.
        keep = bool(max_batch_size) or index == 0
        tensors = [_resized(item, size, random, keep=keep) for item in inputs]
        cases.append(_run(module, inputs, tensors, output_names, size))
    return tuple(cases)


def _other_sizes(
    module: torch.nn.Module, inputs: Inputs, random: np.random.Generator
) -> list[dict[str, int]]:
    """Return sizes of the named axes besides the batch that the module takes; [] without such."""
    example = {
        name: int(item.example.shape[axis])
        for item in inputs
        for axis, name in item.axes.items()
        if name != BATCH
    }
    if not example:
        return []
    candidates = [
        {name: resize(extent) for name, extent in example.items()}
        for resize in (lambda n: 2 * n, lambda n: n + 1, lambda n: 3 * n, lambda _: 1)
    ]
    taken = [
        size for size in candidates if size != example and _takes(module, inputs, size, random)
    ]
    if not taken:
        raise ConversionFailed(
            f"the axes {', '.join(sorted(example))} are said to be free, but the module takes "
            "none of " + "; ".join(_sizes(size) for size in candidates),
        )
    return taken[:2]


def _takes(
    module: torch.nn.Module, inputs: Inputs, size: Mapping[str, int], random: np.random.Generator
) -> bool:
    tensors = [_resized(item, size, random, keep=True) for item in inputs]
    try:
        call(module, inputs, tensors)
    except Exception:  # noqa: BLE001 (whatever forward raises, it does not take this size)
        return False
    return True


def _run(
    module: torch.nn.Module,
    inputs: Inputs,
    tensors: Sequence[torch.Tensor],
    output_names: Sequence[str],
    size: Mapping[str, int],
) -> Case:
    try:
        returned = call(module, inputs, tensors)
    except Exception as error:  # whatever forward raises
        way_out = (
            "If it only runs at the size of the example, say --no-batch (batch=False); if it "
            "refuses random values, give their range: NAME:TYPE[...]=LOW..HIGH (ranges=)."
        )
        raise ConversionFailed(explain_failure(error, f"at {_sizes(size)}", way_out)) from error
    found = [tensor for _, tensor in flatten(returned)]
    if len(found) != len(output_names):
        raise ConversionFailed(
            f"forward returns {len(found)} outputs at {_sizes(size)}, but {len(output_names)} for "
            "the example; a served model always returns the same ones",
        )
    return Case(
        rows=size.get(BATCH, 0),
        inputs={i.name: _to_numpy(t) for i, t in zip(inputs, tensors, strict=True)},
        outputs={n: _to_numpy(t) for n, t in zip(output_names, found, strict=True)},
    )


def _to_numpy(tensor: torch.Tensor) -> Array:
    # A copy: a module may return its input or a view, and change it at the next call.
    array: Array = tensor.detach().cpu().contiguous().numpy().copy()
    return array


def _sizes(size: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={extent}" for name, extent in size.items()) or "the example's size"


def _resized(
    item: Input, size: Mapping[str, int], random: np.random.Generator, *, keep: bool
) -> torch.Tensor:
    """Return data for an input with its named axes at these sizes.

    keep: take as much from the example as fits; random data fills the rest.
    """
    example: Array = item.example.cpu().numpy()
    shape = [size.get(item.axes.get(axis, ""), extent) for axis, extent in enumerate(example.shape)]
    data = _random(item, example, shape, random)
    if keep:
        common = tuple(slice(min(a, b)) for a, b in zip(shape, example.shape, strict=True))
        data[common] = example[common]
    return torch.from_numpy(data).to(item.example.device)


def _random(
    item: Input, example: Array, shape: Sequence[int], random: np.random.Generator
) -> Array:
    if item.datatype is BOOL:
        return random.integers(0, 2, shape).astype(np.bool_)
    low, high = _range(item, example)
    if np.issubdtype(example.dtype, np.integer):
        whole: Array = random.integers(int(low), int(high), shape, dtype=np.int64, endpoint=True)
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
