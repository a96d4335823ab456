"""Bodies that are one tensor's contents and nothing else."""

import pytest

from service.errors import InvalidRequest
from service.rest.raw_body import read_raw
from service.tensors import BYTES, FP32, INT8, Datatype, Shape, Signature, TensorSpec

OUTPUT = TensorSpec("Y", FP32, (-1,))


def signature(datatype: Datatype, shape: Shape, *, batched: bool = False) -> Signature:
    """Return the signature of a model with one input."""
    return Signature((TensorSpec("X", datatype, shape),), (OUTPUT,), batched)


@pytest.mark.parametrize(
    ("datatype", "shape", "kind", "size", "expected"),
    [
        (FP32, (2, 3), "whole", 24, [2, 3]),
        (FP32, (-1, 3), "whole", 24, [2, 3]),
        (FP32, (-1, 3), "batched", 12, [1, 3]),
        (INT8, (-1, -1), "batched", 7, [1, 7]),
        (FP32, (), "whole", 4, []),
        (FP32, (0, -1), "whole", 4, [0, 0]),
        (BYTES, (-1,), "whole", 5, [1]),
        (BYTES, (-1, 1), "batched", 5, [1, 1]),
    ],
)
def test_shape_is_worked_out(
    datatype: Datatype, shape: Shape, kind: str, size: int, expected: list[int]
) -> None:
    """It is one row, and the one extent that is not fixed follows from the size."""
    body = b"x" * size
    request, forms = read_raw("m", "", signature(datatype, shape, batched=kind == "batched"), body)
    assert list(request.inputs[0].shape) == expected
    assert request.raw_input_contents[0].endswith(body)
    assert forms.are_binary


@pytest.mark.parametrize(
    ("datatype", "shape", "text"),
    [
        (FP32, (-1, -1), "for one extent that is not fixed, input 'X' has shape [-1,-1]"),
        (BYTES, (2,), "is one BYTES element, input 'X' has shape [2]"),
    ],
)
def test_what_does_not_say_enough(datatype: Datatype, shape: Shape, text: str) -> None:
    """What could be several things is refused."""
    with pytest.raises(InvalidRequest) as refused:
        read_raw("m", "", signature(datatype, shape), b"1234")
    assert text in str(refused.value)


@pytest.mark.parametrize("count", [0, 2])
def test_models_with_other_than_one_input(count: int) -> None:
    """They need the names."""
    inputs = tuple(TensorSpec(f"X{index}", FP32, (1,)) for index in range(count))
    with pytest.raises(InvalidRequest, match=f"with one input, 'm' has {count}"):
        read_raw("m", "", Signature(inputs, (OUTPUT,), batched=False), b"")
