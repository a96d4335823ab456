"""`--input` specifications: image:float32[batch,784]. Knows numpy and text, no torch.

NAME:DTYPE[EXTENT,...] with an optional range of values, NAME:DTYPE[...]=LOW..HIGH. An extent is a
number, a name (free, any size) or NAME=SIZE (free, of this size in the example).
"""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from exporter.errors import UsageError
from service.tensors import Array, Tensors

BATCH: Final = "batch"
_SPEC: Final = re.compile(
    r"(?P<name>[^:\[\]=]+):(?P<dtype>\w+)\[(?P<extents>[^\]]*)\]"
    r"(?:=(?P<low>-?[\d.eE+-]+?)\.\.(?P<high>-?[\d.eE+-]+))?",
)
_EXTENT: Final = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:=(?P<size>[1-9]\d*))?|(?P<fixed>[1-9]\d*)")
_LIMITS: Final = re.compile(r"(?P<name>[A-Za-z_]\w*)=(?P<low>\d{1,9})\.\.(?P<high>\d{1,9})")
_DTYPES: Final = (
    "float32", "float64", "float16", "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8", "bool",
)  # fmt: skip
_FREE_SIZES: Final = (5, 7, 11, 13)  # distinct, so that equal sizes are not merged by chance
_EXAMPLE_ROWS: Final = 2
_HELP: Final = (
    "expected NAME:DTYPE[EXTENTS], such as image:float32[batch,784], tokens:int64[batch,length] "
    "or tokens:int64[batch,length=16]=0..30521"
)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One `--input`: its name, type, sizes and values.

    shape: extents of the example. axes: name by axis of the free ones.
    low, high: bounds of the values, None if not said.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: Mapping[int, str]
    low: float | None
    high: float | None


def parse_specs(texts: Sequence[str]) -> tuple[InputSpec, ...]:
    """Return what each `--input` says. The same name means the same size. Raises UsageError."""
    sizes = {BATCH: _EXAMPLE_ROWS}
    specs = tuple(_parse(text.strip(), sizes) for text in texts)
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"--input {twice[0]} is given twice")
    return specs


def examples_of(specs: Sequence[InputSpec], seed: int) -> Tensors:
    """Return seeded random data for each specification, by name.

    Without bounds: floats from -1 to 1, integers 0 or 1, which any vocabulary knows.
    """
    random = np.random.default_rng(seed)
    return {spec.name: _random(spec, random) for spec in specs}


def within_limits(
    specs: Sequence[InputSpec], limits: Mapping[str, tuple[int, int]]
) -> tuple[InputSpec, ...]:
    """Return the specifications with the examples' sizes moved into the limits of each axis."""

    def size(axes: Mapping[int, str], axis: int, extent: int) -> int:
        low, high = limits.get(axes.get(axis, ""), (extent, extent))
        return max(low, min(extent, high))

    return tuple(
        replace(
            spec,
            shape=tuple(size(spec.axes, axis, extent) for axis, extent in enumerate(spec.shape)),
        )
        for spec in specs
    )


def parse_limits(texts: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return what each `--axis NAME=LOW..HIGH` says. Raises UsageError."""
    limits: dict[str, tuple[int, int]] = {}
    for text in texts:
        match = _LIMITS.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"--axis {text!r}: expected NAME=LOW..HIGH, such as length=1..512")
        name, low, high = match["name"], int(match["low"]), int(match["high"])
        if name == BATCH:
            raise UsageError("--axis batch: the largest batch is said by --max-batch-size")
        if name in limits:
            raise UsageError(f"--axis {name} is given twice")
        if not 1 <= low <= high:
            raise UsageError(f"--axis {text!r}: expected 1 or more, and LOW not above HIGH")
        limits[name] = (low, high)
    return limits


def check_batches(specs: Sequence[InputSpec], *, batch: bool) -> None:
    """Raise UsageError unless every specification has a batch, or, without, none.

    It stands on axis 0, but in a state of a recurrent network, which is told by its output.
    """
    for spec in specs:
        if batch and BATCH not in spec.axes.values():
            raise UsageError(
                f"--input {spec.name}: axis 0 must be called '{BATCH}', as in "
                f"{spec.name}:{spec.dtype}[batch,...]; say --no-batch for a model without one",
            )
        if not batch and BATCH in spec.axes.values():
            raise UsageError(
                f"--input {spec.name}: --no-batch was said, but an axis is called '{BATCH}'; "
                "give a number there",
            )


def read_samples(path: Path, flag: str = "--sample") -> Tensors:
    """Return the arrays of a .npz file by name. Raises UsageError; unpickles nothing."""
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            with archive:
                return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{flag} {path}: cannot be read: {error}") from error
    raise UsageError(f"{flag} {path}: holds one array; expected .npz with one for each input")


def check_samples(path: Path, samples: Tensors, names: Sequence[str]) -> None:
    """Raise UsageError if there are samples of something that is no input."""
    unknown = sorted(set(samples) - set(names))
    if unknown:
        raise UsageError(f"{path} has '{unknown[0]}', but the inputs are {', '.join(names)}")


def _parse(text: str, sizes: dict[str, int]) -> InputSpec:
    match = _SPEC.fullmatch(text)
    if match is None:
        raise UsageError(f"--input {text!r}: {_HELP}")
    if match["dtype"] not in _DTYPES:
        raise UsageError(
            f"--input {text!r}: unknown type {match['dtype']!r}; one of {', '.join(_DTYPES)}",
        )
    parts = [part.strip() for part in match["extents"].split(",")] if match["extents"] else []
    shape: list[int] = []
    axes: dict[int, str] = {}
    for axis, part in enumerate(parts):
        extent = _EXTENT.fullmatch(part)
        if extent is None:
            raise UsageError(f"--input {text!r}: {part!r} is no extent: a number from 1 or a name")
        if extent["name"]:
            axes[axis] = extent["name"]
        shape.append(int(extent["fixed"] or _size(extent["name"], extent["size"], sizes)))
    low, high = _bounds(text, match)
    return InputSpec(match["name"].strip(), match["dtype"], tuple(shape), axes, low, high)


def _size(name: str, given: str | None, sizes: dict[str, int]) -> int:
    """Return the size of a free axis in the example, the same wherever the name stands."""
    if given is not None:
        sizes[name] = int(given)
    return sizes.setdefault(name, _FREE_SIZES[(len(sizes) - 1) % len(_FREE_SIZES)])


def _bounds(text: str, match: re.Match[str]) -> tuple[float | None, float | None]:
    if match["low"] is None:
        return None, None
    try:
        low, high = float(match["low"]), float(match["high"])
    except ValueError:
        raise UsageError(f"--input {text!r}: the range is not LOW..HIGH in numbers") from None
    if low > high:
        raise UsageError(f"--input {text!r}: the lower bound {low:g} is above {high:g}")
    return low, high


def _random(spec: InputSpec, random: np.random.Generator) -> Array:
    if spec.dtype == "bool":
        return random.integers(0, 2, spec.shape).astype(np.bool_)
    if spec.dtype.startswith("float"):
        low, high = (-1.0, 1.0) if spec.low is None else (spec.low, spec.high or 0.0)
        return np.asarray(random.uniform(low, high, spec.shape)).astype(spec.dtype)
    low, high = (0, 1) if spec.low is None else (spec.low, spec.high or 0.0)
    whole = random.integers(int(low), int(high), spec.shape, dtype=np.int64, endpoint=True)
    return np.asarray(whole).astype(spec.dtype)
