"""Files into the inputs of a model: .npy, .npz, JSON or a picture, told apart by content.

Knows what the model asks for (TensorSpec) and no server. Nothing is ever unpickled.
"""

import io
import json
import sys
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from service.cli.images import fit_picture
from service.cli.usage import UsageError
from service.errors import dims, listed
from service.tensors import BF16, BYTES, Array, Datatype, Tensors, TensorSpec

STDIN: Final = "-"
_NPY: Final = b"\x93NUMPY"
_ZIP: Final = b"PK\x03\x04"
# What numpy, zipfile and json raise for a broken file.
_MALFORMED: Final = (
    ValueError, TypeError, KeyError, EOFError, RecursionError, zipfile.BadZipFile, zlib.error
)  # fmt: skip
_JSON_STARTS: Final = b'[{"-0123456789tfn'


@dataclass(frozen=True, slots=True)
class Picture:
    """A file that is none of the others; what it holds is told when it is fitted."""

    contents: bytes


Value: TypeAlias = "Array | Picture"
Contents: TypeAlias = "Value | Mapping[str, Array]"


def gather(
    unnamed: Sequence[str], named: Mapping[str, str], specs: Sequence[TensorSpec]
) -> Tensors:
    """Return the inputs of a model from files.

    unnamed: files for the only input that is not named, or that hold arrays by name. named:
    file by input. Raises UsageError for a file that cannot be read or does not fit.
    """
    by_name = {spec.name: spec for spec in specs}
    tensors: Tensors = {}
    for name, path in named.items():
        if name not in by_name:
            raise UsageError(f"--input {name}: the model has the inputs {listed(list(by_name))}")
        tensors[name] = fit(path, _only(path, read_file(path)), by_name[name])
    for path in unnamed:
        rest = [spec for spec in specs if spec.name not in tensors]
        tensors.update(_unnamed(path, read_file(path), rest))
    if not tensors:
        raise UsageError("no input: give INPUT, or --input NAME=FILE once an input")
    return tensors


def read_file(path: str) -> Contents:
    """Return what a file holds; "-" is the standard input.

    Raises UsageError if it cannot be read or holds pickled objects.
    """
    try:
        contents = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{_where(path)}: {error.strerror}") from error
    try:
        if contents.startswith((_NPY, _ZIP)):
            return _from_numpy(contents)
        if contents.lstrip()[:1] in [bytes((start,)) for start in _JSON_STARTS]:
            return _from_json(contents)
    except _MALFORMED as error:
        raise UsageError(f"{_where(path)} cannot be read: {error}") from error
    if not contents.strip():
        raise UsageError(f"{_where(path)} is empty")
    return Picture(contents)


def fit(path: str, value: Value, spec: TensorSpec) -> Array:
    """Return the value in type and shape of an input; a missing batch axis is added.

    Raises UsageError if the values do not survive the change of type, or the shape is another.
    """
    where = _where(path)
    array = fit_picture(where, value.contents, spec) if isinstance(value, Picture) else value
    array = _cast(where, array, spec)
    for candidate in (array, array[np.newaxis]):
        if spec.admits(candidate.shape):
            return candidate
    raise UsageError(
        f"{where} has shape {dims(array.shape)}, but input '{spec.name}' takes {dims(spec.shape)}"
        + (" (-1: any extent)" if -1 in spec.shape else "")
    )


def _where(path: str) -> str:
    return "the standard input" if path == STDIN else path


def _from_numpy(contents: bytes) -> Contents:
    try:
        loaded = np.load(io.BytesIO(contents), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return dict(loaded)
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise ValueError(
            "it holds pickled Python objects, which are never read; save numbers or text"
        ) from error


def _from_json(contents: bytes) -> Contents:
    value = json.loads(contents)
    if not isinstance(value, dict):
        return _array(value)
    inputs = value.get("inputs")
    if isinstance(inputs, list) and all(isinstance(each, dict) for each in inputs):
        return {str(each.get("name", "")): _v2_array(each) for each in inputs}
    return {name: _array(each) for name, each in value.items()}


def _v2_array(tensor: Mapping[str, Any]) -> Array:
    """Return a tensor of the protocol's JSON form: name, shape, datatype, data."""
    if "data" not in tensor:
        raise ValueError(f"input '{tensor.get('name', '')}' has no 'data'")
    array = _array(tensor["data"])
    return array.reshape(tensor["shape"]) if "shape" in tensor else array


def _array(value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind == "O":
        raise ValueError("expected nested lists of numbers, truth values or texts")
    return array


def _only(path: str, contents: Contents) -> Value:
    if not isinstance(contents, Mapping):
        return contents
    if len(contents) != 1:
        raise UsageError(f"{_where(path)} holds the arrays {listed(list(contents))}, expected one")
    return next(iter(contents.values()))


def _unnamed(path: str, contents: Contents, specs: Sequence[TensorSpec]) -> Tensors:
    by_name = {spec.name: spec for spec in specs}
    if isinstance(contents, Mapping) and contents.keys() & by_name.keys():
        unknown = [name for name in contents if name not in by_name]
        if unknown:
            raise UsageError(
                f"{_where(path)} holds {listed(unknown)}, but the model asks for "
                f"{listed(list(by_name))}"
            )
        return {name: fit(path, array, by_name[name]) for name, array in contents.items()}
    if len(specs) != 1:
        raise UsageError(_which(path, specs))
    return {specs[0].name: fit(path, _only(path, contents), specs[0])}


def _which(path: str, specs: Iterable[TensorSpec]) -> str:
    names = [spec.name for spec in specs]
    if not names:
        return f"{_where(path)} is one file too many: every input of the model has one"
    return (
        f"{_where(path)}: for which input? The model asks for {listed(names)}: give each as "
        "--input NAME=FILE, or one .npz or JSON object with these names"
    )


def _cast(where: str, array: Array, spec: TensorSpec) -> Array:
    datatype = spec.datatype
    is_text = array.dtype.kind in "SU"
    if is_text is not (datatype is BYTES):
        held = "text" if is_text else str(array.dtype)
        raise UsageError(f"{where} holds {held}, but input '{spec.name}' is {datatype}")
    if datatype is BYTES or (datatype is BF16 and array.dtype == BF16.numpy):
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        cast = _to_bf16(array) if datatype is BF16 else array.astype(datatype.numpy)
    if not _survives(array, cast, datatype):
        raise UsageError(f"{where} holds values that {datatype} of input '{spec.name}' cannot")
    return cast


def _survives(array: Array, cast: Array, datatype: Datatype) -> bool:
    """Tell whether the cast kept the values; floating types may round, not overflow."""
    if datatype is BF16:
        return True
    if cast.dtype.kind == "f":
        return bool(np.array_equal(np.isfinite(array), np.isfinite(cast)))
    return bool(np.array_equal(array, cast))


def _to_bf16(array: Array) -> Array:
    """Return the bits of BF16: the upper half of FP32, rounded to even."""
    bits = array.astype(np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(BF16.numpy)
