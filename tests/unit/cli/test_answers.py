"""Answers read well, and keep their values in JSON and .npy."""

import io
import json

import numpy as np
import pytest

from service.cli.answers import as_json, as_npy, as_table, check_npy
from service.cli.table import table
from service.cli.usage import UsageError
from service.tensors import BF16, BYTES, FP32, Datatype, TensorSpec


def specs(datatype: Datatype = FP32) -> dict[str, TensorSpec]:
    """Return the outputs of a model with one."""
    return {"y": TensorSpec("y", datatype, (-1, -1))}


def test_scores_are_the_best_classes_first() -> None:
    """A row of scores shows its best classes by label, best first, and no more than asked for."""
    scores = {"y": np.array([[0.1, 3.0, 2.0]], np.float32)}
    lines = as_table(scores, specs(), 2, ["cat", "dog", "cow"]).splitlines()
    assert lines[0] == "y  FP32[1,3]"
    assert [line.split()[:3] for line in lines[2:]] == [["0", "dog", "3"], ["cow", "2", "#" * 13]]


def test_classes_without_labels_are_numbers() -> None:
    """A class past the end of the labels is shown by its number."""
    text = as_table({"y": np.array([[1.0, 2.0]], np.float32)}, specs(), 1, ["only"])
    assert text.splitlines()[2].split()[:2] == ["0", "1"]


def test_many_rows_are_abridged() -> None:
    """A large batch shows its first rows and says how many more there are."""
    text = as_table({"y": np.zeros((1000, 2), np.float32)}, specs(), 1, [])
    assert "980 more rows" in text
    assert len(text.splitlines()) < 30


def test_other_arrays_are_abridged() -> None:
    """A large array of another rank is shown by its edges."""
    text = as_table({"y": np.zeros((10, 100, 100), np.float32)}, specs(), 5, [])
    assert "..." in text
    assert len(text) < 5000


def test_not_a_number_has_no_bar() -> None:
    """Scores that are NaN or infinite are shown as they are."""
    text = as_table({"y": np.array([[np.nan, np.inf]], np.float32)}, specs(), 2, [])
    assert "nan" in text
    assert "inf" in text


def test_bytes_are_shown_as_text() -> None:
    """BYTES are decoded; what is not UTF-8 is escaped."""
    words = np.array([["grün".encode(), b"\xff"]], dtype=object)
    text = as_table({"y": words}, specs(BYTES), 5, [])
    assert "'grün'" in text
    assert r"\\xff" in text


def test_json_has_the_form_of_the_protocol() -> None:
    """JSON carries name, datatype, shape and flat data; NaN becomes null."""
    answer = json.loads(as_json("m", {"y": np.array([[1.5, np.nan]], np.float32)}, specs()))
    assert answer == {
        "model_name": "m",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, None]}],
    }


def test_bf16_is_given_as_numbers() -> None:
    """The bits of BF16 become the numbers that they stand for."""
    bits = np.array([[0x3F80, 0xC000]], np.uint16)
    answer = json.loads(as_json("m", {"y": bits}, specs(BF16)))
    assert answer["outputs"][0]["data"] == [1.0, -2.0]


def test_npy_keeps_the_array() -> None:
    """One output is an .npy with the same type and values."""
    array = np.array([[1, 2]], np.int16)
    read = np.load(io.BytesIO(as_npy({"y": array})), allow_pickle=False)
    assert read.dtype == np.int16
    np.testing.assert_array_equal(read, array)


def test_several_outputs_are_an_npz() -> None:
    """Two outputs are an .npz by name, BYTES without a pickle."""
    outputs = {"a": np.ones(2), "b": np.array([b"x", b"yz"], dtype=object)}
    with np.load(io.BytesIO(as_npy(outputs)), allow_pickle=False) as read:
        assert read["a"].tolist() == [1, 1]
        assert read["b"].tolist() == [b"x", b"yz"]


def test_npy_for_two_outputs_is_refused() -> None:
    """A file called .npy cannot hold two outputs; the error says what to do."""
    with pytest.raises(UsageError, match="choose one with --output"):
        check_npy("out.npy", ["a", "b"])


def test_columns_are_as_wide_as_their_cells() -> None:
    """Cells of a column start at the same place and no line ends in spaces."""
    assert table(("A", "LONG"), [("wide", "x"), ("y", "")]) == "A     LONG\nwide  x\ny"
