"""One instance of a Python model as a Producer: its answers are checked before they are given."""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from service.errors import (
    BackendContractError,
    InvalidRequest,
    LoadError,
    RequestCancelled,
    dims,
    listed,
    shown,
)
from service.inference import request as inference
from service.inference.producer import Responses
from service.python_backend import Cancelled, Context, InvalidInput, Request
from service.runtime.python.modules import described
from service.tensors import BF16, BYTES, Array, Signature, Tensors, TensorSpec


class PythonInstance:
    """A Model of a model.py; see Producer."""

    def __init__(
        self,
        model_class: Callable[..., Any],
        context: Context,
        signature: Signature,
        *,
        decoupled: bool,
    ) -> None:
        """Make the Model. Raises LoadError with what it raised."""
        self._signature = signature
        self._decoupled = decoupled
        if not decoupled and inspect.isgeneratorfunction(getattr(model_class, "infer", None)):
            raise LoadError(
                f"{context.directory}: infer is a generator, which may give several responses: set "
                "model_transaction_policy { decoupled: true } in config.pbtxt, or return a mapping"
            )
        try:
            self._model = model_class(context)
        except BaseException as error:
            raise LoadError(
                f"{context.directory}: Model cannot be made: {described(error, context.directory)}",
            ) from error

    def respond(self, request: inference.Request, left: threading.Event) -> Responses:
        """Return the responses of a request; see Producer."""
        rows = request.rows if self._signature.batched else None
        seen = Request(
            request.inputs,
            outputs=request.outputs,
            parameters=request.parameters,
            id=request.id,
            deadline=request.deadline,
            left=left,
        )
        try:
            given = self._model.infer(seen)
            if self._decoupled and isinstance(given, Iterator):
                return (yield from self._several(given, request.outputs, rows))
            if given is None and self._decoupled:
                return None
            return self._checked(given, request.outputs, rows)
        except InvalidInput as error:
            raise InvalidRequest(str(error)) from error
        except Cancelled:
            raise RequestCancelled from None

    def close(self) -> None:
        """Tell the model, if it wants to know."""
        close = getattr(self._model, "close", None)
        if close is not None:
            close()

    def _several(
        self, steps: Iterator[Any], wanted: tuple[str, ...], rows: int | None
    ) -> Responses:
        try:
            while True:
                try:
                    given = next(steps)
                except StopIteration as end:
                    return None if end.value is None else self._checked(end.value, wanted, rows)
                yield self._checked(given, wanted, rows)
        finally:  # also when nobody waits any more, or when a response is not what it should be
            if (close := getattr(steps, "close", None)) is not None:
                close()

    def _checked(self, given: Any, wanted: tuple[str, ...], rows: int | None) -> Tensors:
        """Return the outputs that are wanted, in order. Raises BackendContractError."""
        if not isinstance(given, Mapping):
            raise BackendContractError(
                f"infer gave {type(given).__name__}, expected a mapping from output name to array"
            )
        specs = {spec.name: spec for spec in self._signature.outputs}
        if unknown := [str(name) for name in given if name not in specs]:
            raise BackendContractError(
                f"infer gave {listed(unknown)}; the outputs of config.pbtxt are "
                f"{listed(list(specs))}"
            )
        if missing := [name for name in wanted if name not in given]:
            raise BackendContractError(f"infer gave no {listed(missing)}, which the caller wants")
        return {name: _fitting(specs[name], given[name], rows) for name in wanted}


def _fitting(spec: TensorSpec, given: Any, rows: int | None) -> Array:
    """Return an output as an array that config.pbtxt describes.

    rows: those of the request, if axis 0 is the batch.
    """
    array = _bytes(given) if spec.datatype is BYTES else np.asarray(given)
    expected = spec.datatype.numpy
    if array.dtype != expected:
        hint = " (the upper halves of float32)" if spec.datatype is BF16 else ""
        raise BackendContractError(
            f"output '{shown(spec.name)}' is of {array.dtype}, expected {expected}{hint}: "
            f"config.pbtxt says {spec.datatype.config}"
        )
    if not spec.admits(array.shape) or (rows is not None and array.shape[0] != rows):
        shape = spec.shape if rows is None else (rows, *spec.shape[1:])
        raise BackendContractError(
            f"output '{shown(spec.name)}' has shape {dims(array.shape)}, expected {dims(shape)}"
        )
    return array


def _bytes(given: Any) -> Array:
    """Return an array of bytes, of text too: it is sent as UTF-8."""
    array = np.asarray(given)
    if array.dtype.kind in "SU":
        array = array.astype(object)
    if array.dtype.hasobject and not all(
        isinstance(element, bytes | str) for element in array.reshape(-1).tolist()
    ):
        raise BackendContractError("an element of a BYTES output is neither bytes nor str")
    return array
