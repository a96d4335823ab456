"""Batch assembly: concatenate and split. Pure numpy; knows no queue and no backend."""

from collections.abc import Sequence

import numpy as np

from service.errors import BackendContractError
from service.tensors import Tensors


def join_inputs(members: Sequence[Tensors]) -> Tensors:
    """Concatenate the inputs of several requests along axis 0.

    members: the same names and the same shapes but for axis 0, at least one.
    The inputs of a single request are returned as they are; nothing is copied.
    """
    if len(members) == 1:
        return members[0]
    return {name: np.concatenate([member[name] for member in members]) for name in members[0]}


def split_batch(outputs: Tensors, rows: Sequence[int]) -> list[Tensors]:
    """Give each request its own rows of the batched outputs.

    outputs: name -> array [sum(rows), ...]; views are returned, nothing is copied.
    rows: rows that each request contributed, in queue order, each at least 1.
    Raises BackendContractError if an output does not have sum(rows) rows.
    """
    total = sum(rows)
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != total:
            raise BackendContractError(
                f"output '{name}' has shape {array.shape} for a batch of {total} rows",
            )
    if len(rows) == 1:
        return [outputs]
    parts: list[Tensors] = []
    start = 0
    for count in rows:
        end = start + count
        parts.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return parts
