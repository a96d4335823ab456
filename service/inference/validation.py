"""Checks a decoded request against the signature of its model. The texts are Triton's."""

from collections.abc import Mapping, Sequence

import numpy as np

from service.errors import InvalidRequest, dims, listed, shown
from service.tensors import BYTES, Array, Datatype, Signature, Tensors, TensorSpec, element_count

MAX_RANK = 16
_MAX_ELEMENTS = 1 << 56  # numpy counts bytes in 63 bits, also where one extent is 0


def check_unique(kind: str, names: Sequence[str]) -> None:
    """Check that no name stands twice. kind: "input" or "output". Raises InvalidRequest."""
    if len(set(names)) != len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise InvalidRequest(f"{kind} '{shown(twice)}' already exists in request")


def check_input_names(model: str, signature: Signature, names: Sequence[str]) -> None:
    """Check that every required input is there, and nothing else.

    names: in the order of the request, each once. Raises InvalidRequest.
    """
    given = set(names)
    known = [spec.name for spec in signature.inputs]
    required = [spec.name for spec in signature.inputs if not spec.optional]
    missing = [name for name in required if name not in given]
    if not len(required) <= len(names) <= len(known):
        _raise_wrong_count(model, len(required), known, names, missing)
    if not given.issubset(known):
        unknown = next(name for name in names if name not in known)
        text = f"unexpected inference input '{shown(unknown)}' for model '{model}'"
        raise InvalidRequest(text + _but_missing(missing))
    if missing:
        _raise_wrong_count(model, len(required), known, names, missing)


def check_shape(
    model: str,
    spec: TensorSpec,
    datatype: Datatype | None,
    wire_datatype: str,
    shape: Sequence[int],
    *,
    batched: bool,
) -> None:
    """Check the declared datatype and shape of one input before its contents are touched.

    Raises InvalidRequest.
    """
    if datatype is spec.datatype and spec.admits(shape) and len(shape) <= MAX_RANK:
        if 0 in shape and element_count(max(extent, 1) for extent in shape) > _MAX_ELEMENTS:
            raise InvalidRequest(
                f"input '{shown(spec.name)}' for model '{model}' is too large: {dims(shape)}",
            )
        return
    name = shown(spec.name)
    if datatype is None:
        raise InvalidRequest(f"unsupported datatype '{shown(wire_datatype)}' for input '{name}'")
    if datatype is not spec.datatype:
        raise InvalidRequest(
            f"inference input '{name}' data-type is '{datatype}', but model '{model}' expects "
            f"'{spec.datatype}'",
        )
    if batched and not shape:
        raise InvalidRequest(
            f"input '{name}' has no shape but model requires batch dimension for '{model}'",
        )
    if any(extent < 0 for extent in shape):
        raise InvalidRequest(
            f"All input dimensions should be specified for input '{name}' for model '{model}', "
            f"got {dims(shape)}: a negative dimension has no meaning in a request",
        )
    note = (
        " NOTE: the model batches: the first dimension is the batch size, any number of rows."
        if batched
        else ""
    )
    raise InvalidRequest(
        f"unexpected shape for input '{name}' for model '{model}'. "
        f"Expected {dims(spec.shape)}, got {dims(shape)}.{note}",
    )


def batch_rows(model: str, signature: Signature, inputs: Mapping[str, Array]) -> int:
    """Return the rows of a request: axis 0 of a batched model's inputs, else 1.

    Raises InvalidRequest if the inputs disagree or have no rows.
    """
    if not signature.batched:
        return 1
    rows = -1
    for name, array in inputs.items():
        if rows not in (-1, array.shape[0]):
            raise InvalidRequest(
                f"input '{shown(name)}' batch size does not match other inputs for '{model}'",
            )
        rows = array.shape[0]
    if rows == 0:
        raise InvalidRequest(f"inference request batch-size must be at least 1 for '{model}'")
    return max(rows, 1)


def check_outputs(model: str, signature: Signature, names: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs to compute: those asked for, or all. Raises InvalidRequest.

    names: in the order of the request, each once.
    """
    if not names:
        return tuple(spec.name for spec in signature.outputs)
    known = {spec.name for spec in signature.outputs}
    for name in names:
        if name not in known:
            raise InvalidRequest(
                f"unexpected inference output '{shown(name)}' for model '{model}'",
            )
    return tuple(names)


def as_text(inputs: Tensors, signature: Signature) -> Tensors:
    """Return the inputs with BYTES elements decoded: an ONNX string is UTF-8 text.

    Raises InvalidRequest naming the input and the element that is not UTF-8.
    """
    for spec in signature.inputs:
        if spec.datatype is BYTES and spec.name in inputs:
            inputs[spec.name] = _decode(spec.name, inputs[spec.name])
    return inputs


def _decode(name: str, array: Array) -> Array:
    elements = array.reshape(-1).tolist()
    text = np.empty(array.size, dtype=object)
    try:
        text[:] = [element.decode() for element in elements]
    except UnicodeDecodeError:
        _raise_not_text(name, elements)
    return text.reshape(array.shape)


def _raise_not_text(name: str, elements: Sequence[bytes]) -> None:
    for index, element in enumerate(elements):
        try:
            element.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"input '{shown(name)}' must be UTF-8: element {index} is not ({error.reason} at "
                f"byte {error.start})",
            ) from None


def _raise_wrong_count(
    model: str,
    required: int,
    known: Sequence[str],
    names: Sequence[str],
    missing: Sequence[str],
) -> None:
    expected = f"{len(known)} inputs"
    if required != len(known):
        expected = f"number of inputs between {required} and {len(known)}"
    raise InvalidRequest(
        f"expected {expected} but got {len(names)} inputs for model '{model}'. Got input(s) "
        f"{listed(names)}" + (_but_missing(missing) or f", but the model has {listed(known)}.")
    )


def _but_missing(names: Sequence[str]) -> str:
    if not names:
        return ""
    missing = listed(names)
    return f", but missing required input(s) {missing}. Please provide all required input(s)."
