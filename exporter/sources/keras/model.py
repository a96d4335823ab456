"""A Keras model, live or loaded: through the backend that it computes with.

On TensorFlow it is traced and converted by tf2onnx. On torch it is a module like any other, in a
wrapper that gives its call named arguments. On another backend it is not converted.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from exporter.errors import UsageError, WeightsError, in_one_line
from exporter.sources.base import Opened, Request
from exporter.sources.graph import planned_inputs
from exporter.sources.keras.structure import flatten, signature_of
from exporter.sources.kinds import TORCH_MODULE, require
from service.errors import listed
from service.tensors import Array

WAY_OUT: Final = "Build it with a free batch axis: keras.Input((784,)), without batch_size"


@contextmanager
def opened(request: Request) -> Iterator[Opened]:
    """Open a Keras model. Raises UsageError, WeightsError, ConversionFailed."""
    import keras  # noqa: PLC0415 (an extra)

    model, backend = request.source, keras.backend.backend()
    if request.weights is not None:
        _load_weights(model, request.weights)
    label = request.label or f"{type(model).__module__}:{type(model).__qualname__}"
    request = replace(request, label=label)
    if backend == "tensorflow":
        source = _on_tensorflow(model, request)
    elif backend == "torch":
        source = _on_torch(model, request)
    else:
        raise UsageError(
            f"Keras computes with {backend} here, which has no way to ONNX: save the model as "
            ".keras, and export that with KERAS_BACKEND=torch or tensorflow",
        )
    with _whole_tracebacks(keras), source as found:
        weights = {str(w.path): np.asarray(keras.ops.convert_to_numpy(w)) for w in model.weights}
        _refuse_nan(weights)
        more = {"keras": f"{keras.__version__} on {backend}", "weights_sha256": _digest(weights)}
        yield replace(found, provenance={**found.provenance, **more})


@contextmanager
def _whole_tracebacks(keras: Any) -> Iterator[None]:
    """Keep Keras from cutting the user's own lines out of tracebacks."""
    was_filtered = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if was_filtered:
            keras.config.enable_traceback_filtering()


def _on_tensorflow(model: Any, request: Request) -> AbstractContextManager[Opened]:
    require("Keras on TensorFlow", ("tensorflow", "tf2onnx"), "tensorflow")
    from exporter.sources.keras.graph import opened_function  # noqa: PLC0415 (an extra)

    signature = signature_of(model, request)
    inputs = planned_inputs(signature.shapes, signature.dtypes, request, WAY_OUT)

    def function(*tensors: Any) -> list[tuple[str, Any]]:
        return flatten(model(signature.arrange(tensors), training=False))

    return opened_function(function, inputs, request)


def _on_torch(model: Any, request: Request) -> AbstractContextManager[Opened]:
    require("Keras on torch", TORCH_MODULE.packages, TORCH_MODULE.extra)
    from exporter.sources.keras.on_torch import wrapped  # noqa: PLC0415 (an extra)

    signature = signature_of(model, request)
    inputs = planned_inputs(signature.shapes, signature.dtypes, request, WAY_OUT)
    return TORCH_MODULE.opened(
        replace(
            request,
            source=wrapped(model, signature.arrange),
            weights=None,
            examples=[item.example for item in inputs],
            input_names=tuple(item.name for item in inputs),
            dynamic_axes={
                item.name: {a: n for a, n in item.axes.items() if a or not request.batch}
                for item in inputs
            },
        ),
    )


def _load_weights(model: Any, path: Path) -> None:
    if not path.name.endswith(".weights.h5"):
        raise UsageError(f"{path}: expected .weights.h5, as model.save_weights() writes it")
    try:
        model.load_weights(path)
    except Exception as error:  # h5py and Keras raise errors of every kind
        raise WeightsError(
            f"{path}: the weights do not fit the model: {in_one_line(error)}"
        ) from error


def _refuse_nan(arrays: Mapping[str, Array]) -> None:
    bad = [
        name for name, array in arrays.items() if array.dtype.kind == "f" and np.isnan(array).any()
    ]
    if bad:
        raise WeightsError(
            f"weights are NaN: {listed(bad)}; the training diverged: take an earlier checkpoint",
        )


def _digest(arrays: Mapping[str, Array]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of all weights."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
