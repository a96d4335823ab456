"""Outputs for people and programs: a table, JSON in the protocol's form, .npy and .npz."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from service.cli.table import table
from service.cli.usage import UsageError
from service.errors import dims, listed
from service.tensors import BF16, BYTES, Array, Tensors, TensorSpec

_MAX_ROWS: Final = 20  # rows of class scores that a table shows
_MAX_ELEMENTS: Final = 60  # elements of other outputs before they are abridged
_BAR: Final = 20  # characters of the longest bar


def as_table(
    outputs: Tensors, specs: Mapping[str, TensorSpec], top: int, labels: Sequence[str]
) -> str:
    """Return the outputs for reading: the best `top` classes of scores, other arrays abridged.

    labels: names of the classes by index; (): the index alone.
    """
    parts = []
    for name, array in outputs.items():
        values = readable(array, specs.get(name))
        datatype = specs[name].datatype if name in specs else array.dtype
        parts.append(f"{name}  {datatype}{dims(array.shape)}")
        is_scores = values.dtype.kind == "f" and values.ndim == 2 and values.shape[1] > 1
        parts.append(_scores(values, top, labels) if is_scores and top else _abridged(values))
    return "\n".join(parts)


def as_json(model: str, outputs: Tensors, specs: Mapping[str, TensorSpec]) -> str:
    """Return the response in the JSON form of the Open Inference Protocol.

    BYTES become text; NaN and infinities, which JSON has not, become null.
    """
    tensors = []
    for name, array in outputs.items():
        values = readable(array, specs.get(name))
        tensors.append({
            "name": name,
            "datatype": str(specs[name].datatype) if name in specs else str(array.dtype),
            "shape": list(array.shape),
            "data": [_jsonable(value) for value in values.reshape(-1).tolist()],
        })  # fmt: skip
    return json.dumps({"model_name": model, "outputs": tensors}, ensure_ascii=False)


def as_npy(outputs: Tensors) -> bytes:
    """Return .npy of the only output, or .npz of several. BYTES become arrays of bytes."""
    arrays = {
        name: array.astype(np.bytes_) if array.dtype.kind == "O" else array
        for name, array in outputs.items()
    }
    target = io.BytesIO()
    if len(arrays) == 1:
        np.save(target, next(iter(arrays.values())), allow_pickle=False)
    else:
        np.savez(target, allow_pickle=False, **arrays)
    return target.getvalue()


def check_npy(path: str, names: Sequence[str]) -> None:
    """Raise UsageError if a file called path would not hold outputs of these names."""
    if path.endswith(".npy") and len(names) > 1:
        raise UsageError(
            f"--out {path}: .npy holds one array, but the outputs are {listed(names)}; choose one "
            "with --output, or call the file .npz"
        )


def readable(array: Array, spec: TensorSpec | None) -> Array:
    """Return values as they are meant: BF16 as numbers, BYTES as text."""
    if spec is not None and spec.datatype is BF16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    if (spec is not None and spec.datatype is BYTES) or array.dtype.kind == "O":
        text = [_text(value) for value in array.reshape(-1).tolist()]
        return np.array(text, dtype=object).reshape(array.shape)
    return array


def _scores(values: Array, top: int, labels: Sequence[str]) -> str:
    rows = []
    for index, scores in enumerate(values[:_MAX_ROWS]):
        best = np.argsort(-scores, kind="stable")[:top]
        finite = scores[np.isfinite(scores)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        for place, chosen in enumerate(best):
            label = labels[chosen] if chosen < len(labels) else str(chosen)
            bar = _bar(float(scores[chosen]), float(low), float(high))
            rows.append((str(index) if place == 0 else "", label, f"{scores[chosen]:.6g}", bar))
    more = len(values) - _MAX_ROWS
    text = table(("row", "class", "score", ""), rows)
    return f"{text}\n... and {more} more rows; --format json or npy gives all" if more > 0 else text


def _bar(value: float, low: float, high: float) -> str:
    if not (math.isfinite(value) and high > low):
        return ""
    return "#" * round(_BAR * (value - low) / (high - low))


def _abridged(values: Array) -> str:
    if values.dtype.kind == "O":
        shown = values.reshape(-1).tolist()[:_MAX_ROWS]
        more = values.size - len(shown)
        return "\n".join([*map(repr, shown), *([f"... and {more} more"] if more else [])])
    return np.array2string(values, threshold=_MAX_ELEMENTS, edgeitems=4, max_line_width=100)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")


def _jsonable(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
