"""Runs a version before it serves: proof of batching, golden pairs, warm-up."""

import logging
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from service.errors import BackendError, LoadError
from service.inference.backend import Interrupt
from service.pb.model_config_pb2 import ModelWarmup
from service.repository.manifest import Manifest
from service.repository.model_config import datatype_of
from service.runtime.session import Session
from service.tensors import BF16, BOOL, BYTES, Array, Datatype, Shape, Signature, Tensors

_LOG = logging.getLogger(__name__)
_FREE_EXTENT: Final = 8  # stands for a dynamic extent that is not the batch
_RELATIVE: Final = 1e-3  # of the largest value, between a row alone and in a batch
# A second thread, asleep, gained nothing for runs of 100 us and a third for those of 200 us; it
# always costs CPU to wake it.
_SHORT_RUN_S: Final = 150e-6
_TRIALS: Final = 10
_SEED: Final = 20_240_817


class Runs(Protocol):
    """A session, or what stands before one."""

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run the model once; see Backend.run."""


def proves_batching(session: Runs, signature: Signature) -> bool:
    """Tell whether each row of a batch of two equals the same row alone, on random data.

    A model that fails on random data, or whose rows depend on each other, is not proved.
    """
    random = np.random.default_rng(_SEED)
    pair = {
        spec.name: _sample(random, spec.datatype, (2, *_filled(spec.shape[1:])))
        for spec in signature.inputs
    }
    names = [spec.name for spec in signature.outputs]
    try:
        together = session.run(pair, names, Interrupt())
        alone = [
            session.run({n: a[i : i + 1] for n, a in pair.items()}, names, Interrupt())
            for i in range(2)
        ]
    except BackendError as error:
        _LOG.info("batching is not proved: the model refuses random data: %s", error)
        return False
    return all(
        together[name].shape[:1] == (2,)
        and close_enough(together[name][i : i + 1], alone[i][name], _RELATIVE, 1e-6)
        for name in names
        for i in range(2)
    )


def close_enough(got: Array, want: Array, relative: float, absolute: float) -> bool:
    """Compare two tensors: exact unless floating; relative to the largest absolute value."""
    if got.shape != want.shape:
        return False
    if not np.issubdtype(got.dtype, np.floating):
        return bool(np.array_equal(got, want))
    finite = np.isfinite(want)
    if not np.array_equal(finite, np.isfinite(got)):
        return False
    if not finite.any():
        return bool(np.array_equal(got, want, equal_nan=True))
    reference = want[finite].astype(np.float64)
    allowed = max(absolute, relative * float(np.max(np.abs(reference))))
    return float(np.max(np.abs(got[finite].astype(np.float64) - reference))) <= allowed


def replay_golden(session: Session, directory: Path, manifest: Manifest) -> int:
    """Run the golden pairs of a version and return how many there are.

    Raises LoadError if one cannot be read or gives something else than when it was exported.
    """
    if not manifest.golden:
        return 0
    path = directory / manifest.golden
    count = 0
    try:
        with np.load(path, allow_pickle=False) as archive:
            for inputs, expected in golden_pairs(dict(archive)):
                _replay(session, path, manifest, inputs, expected, count)
                count += 1
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise LoadError(f"{path}: cannot be read: {error}") from error
    return count


def golden_pairs(arrays: Tensors) -> Iterator[tuple[Tensors, Tensors]]:
    """Yield inputs and outputs of each golden pair; see Manifest.golden."""
    pairs: dict[int, tuple[Tensors, Tensors]] = {}
    for key, array in arrays.items():
        index, side, name = key.split(".", 2)
        if array.dtype.kind == "U":  # text is stored so because objects would be a pickle
            array = array.astype(object)  # noqa: PLW2901
        pairs.setdefault(int(index), ({}, {}))[0 if side == "in" else 1][name] = array
    for _, pair in sorted(pairs.items()):
        yield pair


def warm_up(session: Runs, signature: Signature, sizes: Sequence[int]) -> None:
    """Run zeros at each batch size, so that the first request pays for no first time.

    A model that refuses them is not at fault: dynamic extents are only guessed here.
    """
    names = [spec.name for spec in signature.outputs]
    for rows in sizes:
        try:
            session.run(_zero_inputs(signature, rows), names, Interrupt())
        except BackendError as error:
            _LOG.info("warm-up with zeros at batch %d was refused: %s", rows, error)
            return


def gains_nothing_from_threads(session: Runs, signature: Signature, rows: int) -> bool:
    """Tell whether runs of so many rows are over before a second thread could help.

    Never of a model whose extents are not all known: its requests may be larger than what is
    tried here, nor of one that refuses zeros.
    """
    shapes = [spec.shape[1:] if signature.batched else spec.shape for spec in signature.inputs]
    if any(extent < 0 for shape in shapes for extent in shape):
        return False
    inputs, names = _zero_inputs(signature, max(1, rows)), [s.name for s in signature.outputs]
    for _ in range(_TRIALS):
        started = time.perf_counter()
        try:
            session.run(inputs, names, Interrupt())
        except BackendError:
            return False
        if time.perf_counter() - started < _SHORT_RUN_S:  # the others were held up
            return True
    return False


def run_warmups(session: Runs, warmups: Sequence[ModelWarmup], signature: Signature) -> None:
    """Run the requests of model_warmup. Raises LoadError if one fails."""
    random = np.random.default_rng(_SEED)
    names = [spec.name for spec in signature.outputs]
    for warmup in warmups:
        inputs: Tensors = {}
        for name, entry in warmup.inputs.items():
            datatype = datatype_of(entry.data_type)
            if datatype is None or entry.WhichOneof("input_data_type") == "input_data_file":
                raise LoadError(
                    f"model_warmup '{warmup.name}': input '{name}' needs a data_type and "
                    "zero_data or random_data",
                )
            batch = (max(1, warmup.batch_size),) if signature.batched else ()
            shape = (*batch, *entry.dims)
            inputs[name] = (
                _sample(random, datatype, shape) if entry.random_data else _zeros(datatype, shape)
            )
        for _ in range(max(1, warmup.count)):
            try:
                session.run(inputs, names, Interrupt())
            except BackendError as error:
                raise LoadError(f"model_warmup '{warmup.name}' failed: {error}") from error


def _replay(
    session: Session,
    path: Path,
    manifest: Manifest,
    inputs: Tensors,
    expected: Tensors,
    index: int,
) -> None:
    tolerance = manifest.tolerance
    try:
        outputs = session.run(inputs, list(expected), Interrupt())
    except BackendError as error:
        raise LoadError(f"{path}: golden pair {index} cannot be run: {error}") from error
    for name, want in expected.items():
        if not close_enough(outputs[name], want, tolerance.relative, tolerance.absolute):
            raise LoadError(
                f"{path}: golden pair {index}: output '{name}' differs from what was exported by "
                f"more than {tolerance.relative:g} of its largest value; this machine or this "
                "onnxruntime computes something else",
            )


def _zero_inputs(signature: Signature, rows: int) -> Tensors:
    """Return zeros; extents that are open, but for the batch, are guessed."""
    shapes = {
        spec.name: (rows, *_filled(spec.shape[1:])) if signature.batched else _filled(spec.shape)
        for spec in signature.inputs
    }
    return {spec.name: _zeros(spec.datatype, shapes[spec.name]) for spec in signature.inputs}


def _filled(shape: Shape) -> Shape:
    return tuple(_FREE_EXTENT if extent < 0 else extent for extent in shape)


def _zeros(datatype: Datatype, shape: Shape) -> Array:
    return (
        np.full(shape, "", dtype=object) if datatype is BYTES else np.zeros(shape, datatype.numpy)
    )


def _sample(random: np.random.Generator, datatype: Datatype, shape: Shape) -> Array:
    if datatype is BYTES:
        return random.integers(0, 10, shape).astype(str).astype(object)
    if datatype is BF16:
        return (random.standard_normal(shape).astype("<f4").view("<u4") >> 16).astype("<u2")
    if datatype is BOOL or np.issubdtype(datatype.numpy, np.integer):
        return random.integers(0, 2, shape).astype(datatype.numpy)
    return random.standard_normal(shape).astype(datatype.numpy)
