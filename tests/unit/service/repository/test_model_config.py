"""config.pbtxt: read, and refused with file and line."""

from pathlib import Path

import pytest

from service.errors import ConfigError
from service.repository.model_config import data_type_of, datatype_of, read_config
from service.tensors import BYTES, DATATYPES, Datatype
from tests.support.models import SIMPLE_CONFIG

_PYTHON = """
backend: "python"
input { name: "X" data_type: TYPE_FP32 dims: 1 }
output { name: "Y" data_type: TYPE_FP32 dims: 1 }
"""


def reading(directory: Path, text: str | bytes) -> str:
    """Return the error that reading text as config.pbtxt ends with."""
    path = directory / "config.pbtxt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read_config(directory)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    """Make the directory of the model simple."""
    directory = tmp_path / "simple"
    directory.mkdir()
    return directory


def test_configuration_of_triton_is_read(simple: Path) -> None:
    """A config.pbtxt as Triton's users write it is understood."""
    (simple / "config.pbtxt").write_text(SIMPLE_CONFIG)
    config = read_config(simple)
    assert config is not None
    assert config.max_batch_size == 8
    assert [(i.name, list(i.dims)) for i in config.input] == [("INPUT0", [16]), ("INPUT1", [16])]
    assert config.HasField("dynamic_batching")


def test_no_configuration_is_no_error(simple: Path) -> None:
    """Everything can be read from the graph."""
    assert read_config(simple) is None


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('max_batch_size: "eight"', ":1:17: ", "Couldn't parse integer"),
        ("\n\nmax_batch_size: 1.5", ":3:17: ", "Couldn't parse integer"),
        ("max_batch_size: 3000000000", ":1:17: ", "out of range"),
        ("\nmax_batch: 8", ":2:1: ", 'has no field named "max_batch"'),
        ("input { data_type: TYPE_FP33 }", ":1:20: ", "TYPE_FP33"),
        ("input {\n dims: [ 1,\n", ":3:1: ", ""),
        ("dynamic_batching: 1", ":1:19: ", ""),
    ],
)
def test_wrong_text_names_line_and_column(simple: Path, text: str, place: str, reason: str) -> None:
    """A wrong type or name is an error with the line and column where it stands."""
    message = reading(simple, text)
    assert message.startswith(place)
    assert reason in message
    assert " : " not in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('name: "other"', "name is 'other', but the directory is 'simple'"),
        ("max_batch_size: -1", "max_batch_size is -1, expected 0 or more"),
        ('platform: "tensorflow_graphdef"', "only 'onnxruntime_onnx' and 'onnxruntime'"),
        ('backend: "python"', "has no input: with backend 'python' every input and output"),
        ('backend: "python" platform: "x"', "platform is 'x', but backend is 'python'"),
        (_PYTHON + "dynamic_batching { }", "dynamic_batching: not for backend 'python'"),
        (_PYTHON + "model_warmup { }", "model_warmup: not for backend 'python'"),
        ("sequence_batching { iterative_sequence: true }", "iterative_sequence: not served"),
        ("ensemble_scheduling { }", "ensemble_scheduling: not served"),
        ("model_transaction_policy { decoupled: true }", "a graph has one answer"),
        (
            "input { name: 'X' data_type: TYPE_FP32 dims: 2 reshape { } }",
            "'X' has dims [2] and reshape [], which do not have the same elements",
        ),
        (
            "output { name: 'Y' data_type: TYPE_FP32 dims: [-1, 4] reshape { shape: [4, -1] } }",
            "'Y' has dims [-1, 4] and reshape [4, -1], which do not have the same elements",
        ),
        (
            "input { name: 'X' data_type: TYPE_FP32 dims: 1 reshape { shape: 0 } }",
            "'X' has reshape [0]: -1 (any) or at least 1 expected",
        ),
        (
            "input { name: 'X' data_type: TYPE_FP32 dims: 1 allow_ragged_batch: true }",
            "input.allow_ragged_batch: not served",
        ),
        ("input { data_type: TYPE_FP32 dims: 1 }", "an input has no name"),
        ("input { name: 'X' dims: 1 }", "input 'X' has no data_type"),
        ("output { name: 'Y' data_type: TYPE_FP32 dims: -2 }", "output 'Y' has dims [-2]"),
        ("output { name: 'Y' data_type: TYPE_FP32 dims: 0 }", "output 'Y' has dims [0]"),
        (
            "input { name: 'X' data_type: TYPE_FP32 dims: 1 }" * 2,
            "input 'X' is given twice",
        ),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 2, 8 ] }",
            "preferred_batch_size 8 is not between 1 and max_batch_size 4",
        ),
        (
            "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
            "default_priority_level 3 is above priority_levels 2",
        ),
    ],
)
def test_what_cannot_be_served_is_refused(simple: Path, text: str, reason: str) -> None:
    """A setting that is contradictory or not served is an error, never ignored."""
    assert reason in reading(simple, text)


def test_text_that_is_not_utf8(simple: Path) -> None:
    """Bytes that are no text are refused with their place."""
    assert reading(simple, b"name: '\xff'") == ": not UTF-8 text at byte 7"


def test_endless_or_endlessly_nested_text(simple: Path) -> None:
    """A file larger or deeper than any configuration is refused."""
    assert "at most 1048576 are read" in reading(simple, " " * ((1 << 20) + 1))
    deep = "parameters { key: 'k' value { " * 3000
    assert reading(simple, deep)


@pytest.mark.parametrize("datatype", DATATYPES, ids=str)
def test_datatypes_are_named_both_ways(datatype: Datatype) -> None:
    """Every datatype has its value of DataType and is found by it."""
    assert datatype_of(data_type_of(datatype)) is datatype


def test_invalid_datatype_is_none() -> None:
    """TYPE_INVALID is no datatype; TYPE_STRING is BYTES."""
    assert datatype_of(0) is None
    assert datatype_of(13) is BYTES
