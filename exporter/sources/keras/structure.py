"""What a Keras model takes and gives: names, shapes and types, and how a call is put together.

Knows Keras by its attributes only; imports neither it nor a backend.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from exporter.errors import ConversionFailed, UsageError
from exporter.sources.base import Request
from exporter.sources.graph import Shape, clean_name

_MADE_UP: Final = re.compile(r"(keras_tensor|input_layer|input)(_\d+)?")
Arrange: TypeAlias = Callable[[Sequence[Any]], Any]


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs of a Keras model.

    shapes: by name, None where an extent is free. dtypes: by name. arrange: makes the argument of
    a call of one value for each input.
    """

    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, np.dtype]
    arrange: Arrange


def signature_of(model: Any, request: Request) -> Signature:
    """Return what the model takes: as it was built, or as the examples say.

    Raises UsageError if neither says it: a subclass knows its inputs only after a first call.
    """
    declared = getattr(model, "inputs", None)
    if declared:
        return _declared(model, declared)
    if request.examples is not None:
        return _of_examples(request.examples)
    built = getattr(model, "_build_shapes_dict", None) or {}
    shapes = {name.removesuffix("_shape"): shape for name, shape in built.items()}
    if len(shapes) == 1 and _is_shape(next(iter(shapes.values()))):
        (shape,) = shapes.values()
        dtype = np.dtype(getattr(model, "compute_dtype", None) or "float32")
        return Signature({"input": [None, *shape[1:]]}, {"input": dtype}, lambda values: values[0])
    raise UsageError(
        f"{type(model).__name__} does not say what it takes: call it once before the export, or "
        "say --input 'image:float32[batch,784]' (example_inputs=), or give arrays with "
        "--sample FILE.npz",
    )


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return (name, tensor) of everything that a call gave: dicts by key, lists by place."""
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple | list):
        start = prefix or "output"
        return [pair for i, item in enumerate(value) for pair in flatten(item, f"{start}_{i}")]
    elif hasattr(value, "shape"):
        return [(prefix or "output", value)]
    else:
        raise ConversionFailed(
            f"the model returned {type(value).__name__}; a served model returns tensors only",
        )
    return [
        pair for key, item in items for pair in flatten(item, f"{prefix}_{key}" if prefix else key)
    ]


def _declared(model: Any, inputs: Sequence[Any]) -> Signature:
    structure = getattr(model, "_inputs_struct", None)
    names = [_name(str(t.name), i, len(inputs)) for i, t in enumerate(inputs)]
    shapes = {name: list(t.shape) for name, t in zip(names, inputs, strict=True)}
    dtypes = {name: np.dtype(str(t.dtype)) for name, t in zip(names, inputs, strict=True)}
    if isinstance(structure, Mapping):
        keys = [key for tensor in inputs for key, held in structure.items() if held is tensor]
        return Signature(shapes, dtypes, lambda values: dict(zip(keys, values, strict=True)))
    if len(names) == 1:
        return Signature(shapes, dtypes, lambda values: values[0])
    return Signature(shapes, dtypes, list)


def _name(name: str, place: int, count: int) -> str:
    """Return the user's name of an input; "input" where Keras made one up."""
    if not _MADE_UP.fullmatch(name):
        return clean_name(name)
    return "input" if count == 1 else f"input_{place}"


def _of_examples(examples: Any) -> Signature:
    named = examples if isinstance(examples, Mapping) else None
    values = list(named.values()) if named is not None else examples
    if not isinstance(values, list | tuple):
        values = [values]
    arrays = [np.asarray(value) for value in values]
    names = (
        [str(name) for name in named]
        if named is not None
        else ["input"]
        if len(arrays) == 1
        else [f"input_{i}" for i in range(len(arrays))]
    )
    shapes: dict[str, Shape] = {
        name: [None, *array.shape[1:]] for name, array in zip(names, arrays, strict=True)
    }
    dtypes = {name: array.dtype for name, array in zip(names, arrays, strict=True)}
    if len(arrays) == 1:
        return Signature(shapes, dtypes, lambda found: found[0])
    if named is not None:
        return Signature(shapes, dtypes, lambda found: dict(zip(names, found, strict=True)))
    return Signature(shapes, dtypes, list)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(
        isinstance(extent, int) or extent is None for extent in value
    )
