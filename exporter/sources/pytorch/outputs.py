"""Outputs of a module: what forward returns, flattened to named tensors.

The order is that in which torch flattens the same value, so the names fit the exported graph.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from exporter.errors import ConversionFailed, UsageError
from exporter.inputs import check_names, datatype_of
from service.errors import listed
from service.tensors import Array


def flatten(value: Any) -> list[tuple[str, torch.Tensor]]:
    """Return (name, tensor) of each tensor in what forward returned.

    Names come from keys and fields, joined by "_"; places in tuples and lists are numbered; a
    single tensor is "output". None is left out, as torch leaves it out.
    Raises ConversionFailed if there is something else than tensors in it, or no tensor.
    """
    if isinstance(value, torch.Tensor):
        return [("output", value)]
    flat = list(_walk("", value))
    if not flat:
        raise ConversionFailed(
            f"forward returned {type(value).__name__} without a tensor in it; return a tensor, or "
            "a dict or tuple of tensors",
        )
    return flat


def name_outputs(
    value: Any, input_names: Sequence[str], names: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the name of each output of forward.

    names: given names, in order; None: those that `flatten` finds.
    Raises ConversionFailed or UsageError if they are no names, stand twice, or name inputs.
    """
    flat = flatten(value)
    found = [name for name, _ in flat]
    if names is not None and len(names) != len(found):
        raise ConversionFailed(
            f"{len(names)} output names {listed(names)} were given, but forward returns "
            f"{len(found)}: {listed(found)}",
        )
    chosen = tuple(names) if names is not None else tuple(found)
    check_names("output", chosen)
    shared = sorted(set(chosen) & set(input_names))
    if shared:
        raise ConversionFailed(
            f"output {listed(shared)} has the name of an input, which a graph cannot have twice; "
            "give names with --output or output_names=",
        )
    for name, (_, tensor) in zip(chosen, flat, strict=True):
        _check_datatype(name, tensor)
    return chosen


def to_array(tensor: torch.Tensor) -> Array:
    """Return a copy: a module may return its input or a view, and change it at the next call."""
    array: Array = tensor.detach().cpu().contiguous().numpy().copy()
    return array


def _check_datatype(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype is torch.bfloat16:
        raise UsageError(
            f"'{name}' is bfloat16, which ONNX Runtime does not compute on CPUs: convert the "
            "module and its inputs with .float() before the export",
        )
    try:
        datatype_of(name, torch.empty(0, dtype=tensor.dtype).numpy().dtype)
    except TypeError:
        raise UsageError(
            f"'{name}' is {tensor.dtype}, which inference requests cannot carry",
        ) from None


def _walk(prefix: str, value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if value is None:
        return
    if isinstance(value, torch.Tensor):
        yield prefix, value
        return
    for key, item in _children(prefix, value):
        yield from _walk(f"{prefix}_{key}" if prefix else key, item)


def _children(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        first = prefix or "output"
        start = "" if prefix else f"{first}_"
        return [(f"{start}{index}", item) for index, item in enumerate(value)]
    where = f" as '{prefix}'" if prefix else ""
    way_out = "leave it out, or make it a tensor with a batch axis"
    if type(value).__name__.endswith("Cache"):
        way_out = "switch it off with use_cache=False in the configuration of the model"
    raise ConversionFailed(
        f"forward returned {type(value).__name__}{where}; a served model returns tensors only: "
        f"{way_out}",
    )
