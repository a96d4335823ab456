"""The messages of a load: random inputs, or real ones, as serialised requests. Knows no server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from service.cli.usage import UsageError
from service.errors import dims, listed
from service.pb import grpc_service_pb2 as pb
from service.tensors import BF16, BOOL, BYTES, Array, Datatype, Shape, Tensors, TensorSpec, to_raw

_MESSAGES: Final = 16  # different ones, so that no cache on the way sees only one
_MESSAGE_BYTES: Final = 64 << 20  # of them all
_ID: Final = "0" * 8  # overwritten by the client on streams
_TEXT_BYTES: Final = 8
_PICTURE: Final = "UINT8"  # the only integers that use all their values
_SMALL: Final = 10  # other integers are indices more often than not: below it


@dataclass(frozen=True, slots=True)
class Messages:
    """Serialised requests. id_at: where the id of each lies; empty: they have none."""

    contents: tuple[bytes, ...]
    id_at: tuple[int, ...]
    rows: int
    shapes: Mapping[str, Shape]  # of the first


def has_batch_axis(specs: Sequence[TensorSpec]) -> bool:
    """Tell whether axis 0 of every input is free, and so takes any number of rows."""
    return bool(specs) and all(spec.shape[:1] == (-1,) for spec in specs)


def resolved_shapes(
    specs: Sequence[TensorSpec], given: Mapping[str, Shape], rows: int
) -> dict[str, Shape]:
    """Return the shape of every input: free axis 0 of all is the rows, other ones are given.

    given: with or without the rows. Raises UsageError for an axis that nobody gave, and for what
    does not fit the model.
    """
    unknown = [name for name in given if name not in {spec.name for spec in specs}]
    if unknown:
        names = listed([spec.name for spec in specs])
        raise UsageError(f"--shape {unknown[0]}: the model has the inputs {names}")
    batched = has_batch_axis(specs)
    if rows != 1 and not batched:
        shapes = ", ".join(f"{spec.name} {dims(spec.shape)}" for spec in specs)
        raise UsageError(f"--rows {rows}: the model has no free first axis: {shapes}")
    return {spec.name: _resolved(spec, given.get(spec.name), rows if batched else 0)
            for spec in specs}  # fmt: skip


def _resolved(spec: TensorSpec, given: Shape | None, rows: int) -> Shape:
    shape = spec.shape if given is None else given
    if given is not None and rows and len(given) == len(spec.shape) - 1:
        shape = (rows, *given)
    elif rows and shape[:1] == (-1,):
        shape = (rows, *shape[1:])
    if given is not None and not spec.admits(shape):
        raise UsageError(
            f"--shape {spec.name}={','.join(map(str, given))}: the model takes "
            f"{dims(spec.shape)} (-1: any extent)"
        )
    if -1 in shape:
        example = ",".join("N" if extent == -1 else str(extent) for extent in shape)
        raise UsageError(
            f"input '{spec.name}' is {dims(spec.shape)}, where -1 is any extent: "
            f"give --shape {spec.name}={example}"
        )
    return shape


def random_inputs(
    specs: Sequence[TensorSpec], shapes: Mapping[str, Shape], seed: int
) -> list[Tensors]:
    """Return inputs for different requests, the same for the same seed."""
    random = np.random.default_rng(seed)
    size = sum(int(np.prod(shapes[spec.name])) * max(spec.datatype.itemsize, 12) for spec in specs)
    count = max(1, min(_MESSAGES, _MESSAGE_BYTES // max(size, 1)))
    return [
        {spec.name: _random(random, spec.datatype, shapes[spec.name]) for spec in specs}
        for _ in range(count)
    ]


def _random(random: np.random.Generator, datatype: Datatype, shape: Shape) -> Array:
    if datatype is BYTES:
        letters = random.integers(97, 123, (int(np.prod(shape)), _TEXT_BYTES), np.uint8)
        texts = np.empty(len(letters), object)
        texts[:] = [row.tobytes() for row in letters]
        return texts.reshape(shape)
    if datatype is BOOL:
        return random.integers(0, 2, shape).astype(datatype.numpy)
    if datatype is BF16:  # the upper half of FP32
        upper: Array = random.random(shape, np.float32).view(np.uint32) >> 16
        return upper.astype(datatype.numpy)
    if datatype.numpy.kind == "f":
        return random.random(shape).astype(datatype.numpy)
    below = 256 if datatype.wire == _PICTURE else _SMALL
    return random.integers(0, below, shape).astype(datatype.numpy)


def split_rows(inputs: Tensors, specs: Sequence[TensorSpec], rows: int) -> list[Tensors]:
    """Return the inputs of each request from arrays that hold the rows of all.

    Raises UsageError if inputs are missing, or have other or fewer rows.
    """
    missing = [spec.name for spec in specs if spec.name not in inputs]
    if missing:
        raise UsageError(f"--data has no values for the inputs {listed(missing)}")
    if not has_batch_axis(specs):
        return [inputs]
    counts = {name: len(array) for name, array in inputs.items()}
    total = min(counts.values())
    if len(set(counts.values())) != 1:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(f"--data: the inputs have different numbers of rows: {found}")
    if total < rows:
        raise UsageError(f"--data has {total} rows, fewer than --rows {rows}")
    starts = range(0, total - rows + 1, rows)
    return [
        {name: array[start : start + rows] for name, array in inputs.items()} for start in starts
    ]


def serialised(
    model: str,
    version: str,
    inputs: Sequence[Tensors],
    specs: Sequence[TensorSpec],
    *,
    numbered: bool,
) -> Messages:
    """Return one request for each of the inputs. numbered: with room for an id."""
    by_name = {spec.name: spec for spec in specs}
    requests = [_request(model, version, each, by_name, numbered=numbered) for each in inputs]
    contents = tuple(request.SerializeToString() for request in requests)
    # Fields are written in the order of their numbers: name, version, then the id.
    front = len(pb.ModelInferRequest(model_name=model, model_version=version).SerializeToString())
    at = front + 2  # tag and length
    id_at = (at,) * len(contents) if numbered else ()
    shapes = {each.name: tuple(each.shape) for each in requests[0].inputs}
    rows = next(iter(shapes.values()), (1,))[0] if has_batch_axis(specs) else 1
    return Messages(contents, id_at, rows, shapes)


def _request(
    model: str,
    version: str,
    inputs: Tensors,
    specs: Mapping[str, TensorSpec],
    *,
    numbered: bool,
) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    if numbered:
        request.id = _ID
    for name, array in inputs.items():
        datatype = specs[name].datatype
        request.inputs.add(name=name, datatype=datatype.wire, shape=array.shape)
        request.raw_input_contents.append(to_raw(datatype, array))
    return request
