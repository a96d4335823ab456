"""Golden pairs: inputs and the outputs that the module gave, replayed before a version serves.

A .npz without pickles whose bytes depend on its contents alone.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from exporter.cases import Case
from service.tensors import Array, Tensors

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip entry can carry
_MAX_BYTES: Final = 16 << 20  # of one pair: larger ones make a version slow to load
_PAIRS: Final = 4


def choose_pairs(cases: Sequence[Case]) -> list[Case]:
    """Return two to four cases, the smallest first: one row alone, then larger batches.

    Cases above 16 MB are passed over, but the smallest is always there.
    """
    by_size = sorted(cases, key=_size)
    small = [case for case in by_size[1:] if _size(case) <= _MAX_BYTES]
    return [by_size[0], *small[: _PAIRS - 1]]


def write_golden(path: Path, pairs: Sequence[Case]) -> None:
    """Write pairs as arrays "INDEX.in.NAME" and "INDEX.out.NAME"."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, pair in enumerate(pairs):
            for side, tensors in (("in", pair.inputs), ("out", pair.outputs)):
                for name, array in tensors.items():
                    _write_array(archive, f"{index}.{side}.{name}", array)


def _size(case: Case) -> int:
    return sum(array.nbytes for array in (*case.inputs.values(), *case.outputs.values()))


def _write_array(archive: zipfile.ZipFile, key: str, array: Array) -> None:
    entry = zipfile.ZipInfo(f"{key}.npy", _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    if array.dtype == object:  # text; as objects it would be a pickle
        array = array.astype(np.str_)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
    archive.writestr(entry, buffer.getvalue())


def read_golden(path: Path) -> list[tuple[Tensors, Tensors]]:
    """Return (inputs, outputs) of each pair of a file. Raises OSError or ValueError."""
    pairs: dict[int, tuple[Tensors, Tensors]] = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            for key in archive.files:
                index, side, name = key.split(".", 2)
                array = archive[key]
                array = array.astype(object) if array.dtype.kind == "U" else array
                pairs.setdefault(int(index), ({}, {}))[side == "out"][name] = array
    except zipfile.BadZipFile as error:
        raise ValueError(str(error)) from error
    return [pair for _, pair in sorted(pairs.items())]
