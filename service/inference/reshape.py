"""A backend whose clients see other shapes than its graph: `reshape` of config.pbtxt."""

from collections.abc import Iterable, Mapping, Sequence

from service.errors import BackendContractError
from service.inference.backend import Backend, Interrupt
from service.tensors import Array, Shape, Signature, Tensors, TensorSpec


class ReshapingBackend:
    """Backend of another backend that takes and gives the same elements in other shapes."""

    def __init__(self, inner: Backend, signature: Signature) -> None:
        """signature: what clients see: names, order and datatypes are those of the inner one."""
        self._inner = inner
        self._signature = signature
        self._inputs = _other_shapes(signature.inputs, inner.signature.inputs)
        self._outputs = _other_shapes(inner.signature.outputs, signature.outputs)

    @property
    def signature(self) -> Signature:
        """Return what clients see."""
        return self._signature

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Run the model once; see Backend.run."""
        taken = {name: _reshaped(name, array, self._inputs) for name, array in inputs.items()}
        given = self._inner.run(taken, outputs, interrupt)
        return {name: _reshaped(name, array, self._outputs) for name, array in given.items()}

    def close(self) -> None:
        """Free the model."""
        self._inner.close()


def _other_shapes(
    before: Iterable[TensorSpec], after: Iterable[TensorSpec]
) -> Mapping[str, tuple[Shape, Shape]]:
    """Return the shapes of the tensors that have others afterwards, by name."""
    return {
        one.name: (one.shape, other.shape)
        for one, other in zip(before, after, strict=True)
        if one.shape != other.shape
    }


def _reshaped(name: str, array: Array, shapes: Mapping[str, tuple[Shape, Shape]]) -> Array:
    """Return an array in its other shape; what is -1 there is what is -1 here, in order.

    Raises BackendContractError if the array is not what its shape says.
    """
    if name not in shapes:
        return array
    before, after = shapes[name]
    extents = iter([got for got, said in zip(array.shape, before, strict=False) if said < 0])
    try:
        return array.reshape([next(extents) if extent < 0 else extent for extent in after])
    except (ValueError, StopIteration) as error:
        raise BackendContractError(
            f"'{name}' has shape {array.shape}, which is not {before} and cannot become {after}",
        ) from error
