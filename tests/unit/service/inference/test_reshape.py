"""A backend behind other shapes gives the same elements."""

from collections.abc import Sequence

import numpy as np
import pytest

from service.errors import BackendContractError
from service.inference.backend import Interrupt
from service.inference.reshape import ReshapingBackend
from service.tensors import FP32, Shape, Signature, Tensors, TensorSpec


class Mirror:
    """A backend that gives back its input, and remembers the shape in which it came."""

    def __init__(self, taken: Shape, given: Shape) -> None:
        self.signature = signature(taken, given)
        self.seen: Shape = ()
        self.gives: Shape | None = None  # the shape of the next output

    def run(self, inputs: Tensors, outputs: Sequence[str], interrupt: Interrupt) -> Tensors:
        """Give the elements of X as Y."""
        del outputs, interrupt
        self.seen = inputs["X"].shape
        return {"Y": inputs["X"] if self.gives is None else inputs["X"].reshape(self.gives)}

    def close(self) -> None:
        """Free nothing."""


def signature(x: Shape, y: Shape, *, batched: bool = True) -> Signature:
    """Return the signature of X and Y."""
    return Signature((TensorSpec("X", FP32, x),), (TensorSpec("Y", FP32, y),), batched)


@pytest.mark.parametrize(
    ("wire", "graph", "sent", "seen"),
    [
        ((2, 3), (1, 2, 3), (2, 3), (1, 2, 3)),
        ((-1, 1), (-1,), (4, 1), (4,)),
        ((-1, 6), (-1, 2, 3), (5, 6), (5, 2, 3)),
        ((-1, -1, 6), (-1, -1, 2, 3), (5, 7, 6), (5, 7, 2, 3)),
        ((-1, -1), (-1, -1, 1), (5, 0), (5, 0, 1)),
        ((1,), (), (1,), ()),
    ],
)
def test_graph_and_client_see_their_own_shape(
    wire: Shape, graph: Shape, sent: Shape, seen: Shape
) -> None:
    """The graph gets the elements in its shape, and the client gets them back in the other."""
    inner = Mirror(graph, graph)
    backend = ReshapingBackend(inner, signature(wire, wire))
    array = np.arange(np.prod(sent), dtype=np.float32).reshape(sent)
    answer = backend.run({"X": array}, ["Y"], Interrupt())
    assert inner.seen == seen
    assert np.array_equal(answer["Y"], array)


def test_what_is_not_reshaped_passes_as_it_is() -> None:
    """Where both shapes are the same, an output may have any."""
    backend = ReshapingBackend(Mirror((-1, 2), (-1, 2)), signature((-1, 2), (-1, 2)))
    array = np.zeros((3, 2), np.float32)
    assert backend.run({"X": array}, ["Y"], Interrupt())["Y"] is array


@pytest.mark.parametrize("shape", [(2, 3), (3, 2, 1), (6,), (1, 1, 1, 6)])
def test_output_that_is_not_what_was_declared_is_told(shape: Shape) -> None:
    """An output that cannot become what clients expect is a fault of the model, not of ours."""
    inner = Mirror((-1, 6), (-1, -1, 2))
    inner.gives = shape
    backend = ReshapingBackend(inner, signature((-1, 6), (-1, -1, 1, 2)))
    with pytest.raises(BackendContractError, match="'Y' has shape"):
        backend.run({"X": np.zeros((1, 6), np.float32)}, ["Y"], Interrupt())
