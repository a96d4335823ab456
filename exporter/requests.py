"""What was asked for, checked and brought into one form: the request that a source is given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from exporter.axes import as_samples, infer_axes
from exporter.errors import UsageError
from exporter.inputs import BATCH, DynamicAxes, Ranges
from exporter.sources.base import Request
from exporter.specs import InputSpec, parse_specs, within_limits

DEFAULT_OPSET: Final = 20  # what ONNX Runtime, its quantisers and torch have all long known
OPSETS: Final = range(18, 27)  # below, torch writes another one; above, the runtime lags behind
MAX_BATCH: Final = 4096  # rows; the proof runs the module at the largest batch


def make_request(  # noqa: PLR0913 (each argument is a decision of the user's, and has a default)
    model: Any,
    example_inputs: Any = None,
    *,
    name: str = "model",
    weights: str | Path | None = None,
    inputs: Sequence[str | InputSpec] = (),
    samples: Sequence[Mapping[str, Any]] = (),
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    batch: bool = True,
    dynamic_axes: DynamicAxes | None = None,
    limits: Mapping[str, tuple[int, int]] | None = None,
    ranges: Ranges | None = None,
    max_batch_size: int = 64,
    batch_buckets: Sequence[int] = (),
    opset: int = DEFAULT_OPSET,
    seed: int = 0,
    source: str = "",
    trust_pickle: bool = False,
    allow_globals: Sequence[str] = (),
    state: Mapping[str, str] | None = None,
) -> Request:
    """Return the request; see `exporter.export` for the arguments. Raises UsageError."""
    buckets = _checked_sizes(max_batch_size if batch else 0, batch_buckets)
    _check_numbers(max_batch_size, opset)
    specs = within_limits(_specs(inputs), limits or {})
    examples, axes = _examples(example_inputs, samples, dict(dynamic_axes or {}), batch=batch)
    return Request(
        source=model,
        name=name,
        label=source,
        opset=opset,
        batch=batch,
        max_batch_size=max_batch_size,
        seed=seed,
        weights=None if weights is None else Path(weights),
        specs=specs,
        examples=examples,
        ranges={**_spec_ranges(specs), **(ranges or {})},
        dynamic_axes={**_spec_axes(specs, batch=batch), **axes},
        input_names=None if input_names is None else tuple(input_names),
        output_names=None if output_names is None else tuple(output_names),
        batch_buckets=buckets,
        limits=dict(limits or {}),
        trust_pickle=trust_pickle,
        allow_globals=tuple(allow_globals),
        state=dict(state or {}),
    )


def _examples(
    given: Any, samples: Sequence[Mapping[str, Any]], axes: dict[str, Any], *, batch: bool
) -> tuple[Any, dict[str, Any]]:
    """Return the example and the free axes, those that the samples show included."""
    if not samples:
        return given, axes
    if given is not None:
        raise UsageError("give either example_inputs or samples, not both")
    arrays = as_samples(samples)
    if len(arrays) == 1:
        return arrays[0], axes
    found = infer_axes(arrays, batch=batch)
    return arrays[0], {**found, **{name: {**found.get(name, {}), **a} for name, a in axes.items()}}


def _specs(inputs: Sequence[str | InputSpec]) -> tuple[InputSpec, ...]:
    texts = [item for item in inputs if isinstance(item, str)]
    parsed = iter(parse_specs(texts))
    return tuple(next(parsed) if isinstance(item, str) else item for item in inputs)


def _spec_axes(specs: Sequence[InputSpec], *, batch: bool) -> dict[str, Mapping[int, str]]:
    """Return the free axes of specifications; axis 0 is the batch, unless another is called so."""
    return {
        spec.name: {
            axis: name
            for axis, name in spec.axes.items()
            if axis or not batch or BATCH in spec.axes.values()
        }
        for spec in specs
    }


def _spec_ranges(specs: Sequence[InputSpec]) -> dict[str, tuple[float, float]]:
    return {s.name: (s.low, s.high) for s in specs if s.low is not None and s.high is not None}


def _checked_sizes(max_batch_size: int, buckets: Sequence[int]) -> tuple[int, ...]:
    wrong = [size for size in buckets if not 1 <= size <= max_batch_size]
    if wrong:
        raise UsageError(
            f"batch bucket {wrong[0]}: expected 1 to max_batch_size, which is {max_batch_size}",
        )
    return tuple(sorted(set(buckets)))


def _check_numbers(max_batch_size: int, opset: int) -> None:
    if not 1 <= max_batch_size <= MAX_BATCH:
        raise UsageError(f"max_batch_size is {max_batch_size}; expected 1 to {MAX_BATCH}")
    if opset not in OPSETS:
        raise UsageError(
            f"opset is {opset}; expected {OPSETS[0]} to {OPSETS[-1]} ({DEFAULT_OPSET} is read by "
            "every runtime of the last years)",
        )
