"""Random and real inputs become requests that a server can read."""

import numpy as np
import pytest

from service.cli.bench.requests import (
    random_inputs,
    resolved_shapes,
    serialised,
    split_rows,
)
from service.cli.usage import UsageError
from service.pb.grpc_service_pb2 import ModelInferRequest
from service.tensors import (
    BF16,
    BOOL,
    BYTES,
    DATATYPES,
    FP32,
    INT64,
    UINT8,
    Array,
    Datatype,
    Shape,
    Tensors,
    TensorSpec,
    from_raw,
)

ROWS = [TensorSpec("x", FP32, (-1, 3))]
PAIR = [TensorSpec("tokens", INT64, (-1, -1)), TensorSpec("mask", BOOL, (-1, 4))]
FIXED = [TensorSpec("x", FP32, (2, 3))]


@pytest.mark.parametrize(
    ("specs", "given", "rows", "expected"),
    [
        (ROWS, {}, 1, {"x": (1, 3)}),
        (ROWS, {}, 8, {"x": (8, 3)}),
        (ROWS, {"x": (5, 3)}, 1, {"x": (5, 3)}),  # given with its rows
        (PAIR, {"tokens": (128,)}, 4, {"tokens": (4, 128), "mask": (4, 4)}),  # and without
        (PAIR, {"tokens": (2, 128)}, 2, {"tokens": (2, 128), "mask": (2, 4)}),
        (FIXED, {}, 1, {"x": (2, 3)}),
        ([TensorSpec("x", FP32, ())], {}, 1, {"x": ()}),
    ],
)
def test_shapes(
    specs: list[TensorSpec], given: dict[str, Shape], rows: int, expected: dict[str, Shape]
) -> None:
    """A free first axis of all inputs takes the rows, other free axes what is given."""
    assert resolved_shapes(specs, given, rows) == expected


@pytest.mark.parametrize(
    ("specs", "given", "rows", "part"),
    [
        (PAIR, {}, 1, "give --shape tokens=1,N"),
        (ROWS, {"y": (1,)}, 1, "--shape y: the model has the inputs ['x']"),
        (ROWS, {"x": (1, 4)}, 1, "--shape x=1,4: the model takes [-1,3]"),
        (ROWS, {"x": (1, 2, 3)}, 1, "--shape x=1,2,3: the model takes [-1,3]"),
        (FIXED, {}, 2, "--rows 2: the model has no free first axis: x [2,3]"),
        ([TensorSpec("x", FP32, (3, -1))], {}, 1, "give --shape x=3,N"),
    ],
)
def test_shapes_that_cannot_be(
    specs: list[TensorSpec], given: dict[str, Shape], rows: int, part: str
) -> None:
    """The text names the input, what the model takes, and what to give."""
    with pytest.raises(UsageError) as caught:
        resolved_shapes(specs, given, rows)
    assert part in str(caught.value)


@pytest.mark.parametrize("datatype", DATATYPES, ids=str)
def test_random_inputs_of_every_datatype(datatype: Datatype) -> None:
    """What is sent is what a server reads, differs between requests, and follows the seed."""
    specs = [TensorSpec("x", datatype, (-1, 100))]
    inputs = random_inputs(specs, {"x": (2, 100)}, seed=3)
    messages = serialised("m", "", inputs, specs, numbered=False)
    assert len(set(messages.contents)) == len(messages.contents) == 16
    again = serialised("m", "", random_inputs(specs, {"x": (2, 100)}, 3), specs, numbered=False)
    assert again == messages
    request = ModelInferRequest.FromString(messages.contents[0])
    array = from_raw(datatype, (2, 100), request.raw_input_contents[0])
    assert np.array_equal(array, inputs[0]["x"])
    assert (request.inputs[0].datatype, messages.rows) == (datatype.wire, 2)
    assert len(np.unique(array)) > 1


def test_random_values_are_such_as_models_take() -> None:
    """Floats lie in 0 to 1, pictures use all bytes, other integers are small."""
    shape = {"x": (1000,)}

    def values(datatype: Datatype) -> Array:
        return random_inputs([TensorSpec("x", datatype, (1000,))], shape, 0)[0]["x"]

    assert 0 <= values(FP32).min() < values(FP32).max() < 1
    assert values(UINT8).max() > 200
    assert values(INT64).max() == 9
    floats = (values(BF16).astype(np.uint32) << 16).view(np.float32)
    assert 0 <= floats.min() < floats.max() <= 1
    assert all(element.isalpha() for element in values(BYTES))


def test_large_requests_are_fewer() -> None:
    """Requests take 64 MiB together at most, but there is always one."""
    specs = [TensorSpec("x", FP32, (-1, 1 << 20))]
    assert len(random_inputs(specs, {"x": (8, 1 << 20)}, 0)) == 1


@pytest.mark.parametrize("version", ["", "7"])
@pytest.mark.parametrize("name", ["m", "n" * 300])
def test_id_lies_where_it_is_said(name: str, version: str) -> None:
    """Overwriting 8 bytes at id_at changes the id and nothing else."""
    inputs = random_inputs(ROWS, {"x": (1, 3)}, 0)
    messages = serialised(name, version, inputs, ROWS, numbered=True)
    for content, at in zip(messages.contents, messages.id_at, strict=True):
        changed = content[:at] + b"12345678" + content[at + 8 :]
        request = ModelInferRequest.FromString(changed)
        assert request.id == "12345678"
        request.id = "0" * 8
        assert request == ModelInferRequest.FromString(content)


def test_rows_of_real_data_are_shared_out() -> None:
    """Each request gets its rows in order; what is too little for one is left out."""
    array = np.arange(15, dtype=np.float32).reshape(5, 3)
    parts = split_rows({"x": array}, ROWS, 2)
    assert [part["x"].tolist() for part in parts] == [array[:2].tolist(), array[2:4].tolist()]
    whole = {"x": array[:2]}
    assert split_rows(whole, FIXED, 1) == [whole]


@pytest.mark.parametrize(
    ("inputs", "rows", "part"),
    [
        ({"tokens": np.zeros((2, 3))}, 1, "no values for the inputs ['mask']"),
        ({"tokens": np.zeros((2, 3)), "mask": np.zeros((3, 4))}, 1, "tokens 2, mask 3"),
        ({"tokens": np.zeros((2, 3)), "mask": np.zeros((2, 4))}, 3, "2 rows, fewer than --rows 3"),
    ],
)
def test_real_data_that_does_not_do(
    inputs: Tensors,
    rows: int,
    part: str,
) -> None:
    """The text says what is missing."""
    with pytest.raises(UsageError) as caught:
        split_rows(inputs, PAIR, rows)
    assert part in str(caught.value)
