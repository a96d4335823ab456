"""Files become the inputs that a model asks for, or an error that says why not."""

import io
import json
import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from service.cli.inputs import fit, gather
from service.cli.usage import UsageError
from service.tensors import (
    BF16,
    BOOL,
    BYTES,
    FP16,
    FP32,
    INT64,
    UINT8,
    Array,
    Datatype,
    TensorSpec,
)

ROWS = TensorSpec("x", FP32, (-1, 3))


def one(path: Path, spec: TensorSpec = ROWS) -> Array:
    """Return what a file gives for the only input of a model."""
    return gather([str(path)], {}, [spec])[spec.name]


def npy(tmp_path: Path, array: Array) -> Path:
    """Write an array as .npy."""
    path = tmp_path / "array.npy"
    np.save(path, array, allow_pickle=True)
    return path


def text(tmp_path: Path, content: str) -> Path:
    """Write a text file; its name says nothing of its form."""
    path = tmp_path / "file"
    path.write_text(content)
    return path


def test_npy_of_the_right_type_is_taken_as_it_is(tmp_path: Path) -> None:
    """An array in type and shape of the input comes back unchanged."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(one(npy(tmp_path, array)), array)


def test_a_missing_batch_axis_is_added(tmp_path: Path) -> None:
    """One row without a batch axis becomes a batch of one."""
    assert one(npy(tmp_path, np.zeros(3, np.float32))).shape == (1, 3)


def test_json_list_is_the_only_input(tmp_path: Path) -> None:
    """Nested lists become the input, in its datatype."""
    array = one(text(tmp_path, " [[1, 2, 3.5]]"))
    assert array.dtype == np.float32
    assert array.tolist() == [[1.0, 2.0, 3.5]]


def test_json_object_gives_inputs_by_name(tmp_path: Path) -> None:
    """Each member of an object is the input of its name."""
    specs = [ROWS, TensorSpec("flag", BOOL, (-1, 1))]
    path = text(tmp_path, '{"flag": [[true]], "x": [[1, 2, 3]]}')
    assert gather([str(path)], {}, specs)["flag"].tolist() == [[True]]


def test_json_in_the_form_of_the_protocol(tmp_path: Path) -> None:
    """The `inputs` of the protocol's JSON form carry flat data with a shape."""
    tensor = {"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6]}
    array = one(text(tmp_path, json.dumps({"inputs": [tensor]})))
    assert array.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_npz_gives_inputs_by_name(tmp_path: Path) -> None:
    """Arrays of an .npz go to the inputs of their names."""
    specs = [ROWS, TensorSpec("y", INT64, (-1,))]
    path = tmp_path / "both.npz"
    np.savez(path, x=np.ones((2, 3)), y=np.array([4, 5]))
    inputs = gather([str(path)], {}, specs)
    assert (inputs["x"].shape, inputs["y"].tolist()) == ((2, 3), [4, 5])


def test_the_only_array_of_an_npz_needs_no_name(tmp_path: Path) -> None:
    """An .npz with one array of another name fits the only input."""
    path = tmp_path / "one.npz"
    np.savez(path, arr_0=np.ones((2, 3)))
    assert one(path).shape == (2, 3)


def test_standard_input_is_read_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash reads the standard input, here an .npy."""
    buffer = io.BytesIO()
    np.save(buffer, np.ones((1, 3)))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(buffer.getvalue())))
    assert gather(["-"], {}, [ROWS])["x"].shape == (1, 3)


def test_named_files_and_an_unnamed_one_for_the_rest(tmp_path: Path) -> None:
    """With all inputs but one named, the unnamed file is the last one."""
    specs = [ROWS, TensorSpec("y", INT64, (-1,))]
    named = npy(tmp_path, np.array([4, 5]))
    inputs = gather([str(text(tmp_path, "[1,2,3]"))], {"y": str(named)}, specs)
    assert (inputs["x"].tolist(), inputs["y"].tolist()) == ([[1, 2, 3]], [4, 5])


def test_texts_become_bytes_tensors(tmp_path: Path) -> None:
    """JSON texts are for BYTES inputs."""
    spec = TensorSpec("words", BYTES, (-1, 2))
    assert one(text(tmp_path, '[["a", "ü"]]'), spec).tolist() == [["a", "ü"]]


@given(arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=True)))
def test_bf16_is_the_nearest(values: Array) -> None:
    """Numbers for BF16 are rounded to the nearest of its values, NaN stays NaN."""
    spec = TensorSpec("x", BF16, (8,))
    got = fit("x", values, spec).view(ml_dtypes.bfloat16)
    with np.errstate(over="ignore"):
        want = values.astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(got.astype(np.float32), want.astype(np.float32))


@pytest.mark.parametrize(
    ("content", "spec", "expected"),
    [
        ("[1, 2]", ROWS, r"has shape [2], but input 'x' takes [-1,3] (-1: any extent)"),
        ("[[1, 2, 3], [4]]", ROWS, "cannot be read: "),
        ("[1, 2,", ROWS, "cannot be read: "),
        ('{"x": {"y": 1}}', ROWS, "nested lists of numbers"),
        ('{"inputs": [{"name": "x"}]}', ROWS, "has no 'data'"),
        ('{"inputs": [{"name": "x", "shape": 5, "data": [1, 2]}]}', ROWS, "cannot be read"),
        ("", ROWS, "is empty"),
        ('["a", "b", "c"]', ROWS, "holds text, but input 'x' is FP32"),
        ("[1, 2, 3]", TensorSpec("x", BYTES, (3,)), "holds int64, but input 'x' is BYTES"),
        ("[1.5, 2, 3]", TensorSpec("x", INT64, (3,)), "values that INT64 of input 'x' cannot"),
        ("[1, 2, 300]", TensorSpec("x", UINT8, (3,)), "values that UINT8 of input 'x' cannot"),
        ("[1, 2, 70000]", TensorSpec("x", FP16, (3,)), "values that FP16 of input 'x' cannot"),
        ("[0, 1, 2]", TensorSpec("x", BOOL, (3,)), "values that BOOL of input 'x' cannot"),
    ],
)
def test_json_that_does_not_fit(
    tmp_path: Path, content: str, spec: TensorSpec, expected: str
) -> None:
    """What cannot be the input is refused with what is wrong and what was expected."""
    with pytest.raises(UsageError) as caught:
        one(text(tmp_path, content), spec)
    assert expected in str(caught.value)


@pytest.mark.parametrize("datatype", [FP32, INT64, BOOL], ids=str)
def test_values_that_fit_are_kept(tmp_path: Path, datatype: Datatype) -> None:
    """Numbers that the datatype can hold arrive as they are."""
    array = one(text(tmp_path, "[0, 1, 1]"), TensorSpec("x", datatype, (3,)))
    assert (array.dtype, array.tolist()) == (datatype.numpy, [0, 1, 1])


def test_pickled_objects_are_never_read(tmp_path: Path) -> None:
    """An .npy that holds a pickle is refused, and the pickle does not run."""
    witness = tmp_path / "ran"
    path = npy(tmp_path, np.array([_Touches(witness)], dtype=object))
    with pytest.raises(UsageError, match="pickled Python objects, which are never read"):
        one(path)
    assert not witness.exists()


def test_a_bare_pickle_is_never_read(tmp_path: Path) -> None:
    """A pickle of any other name is no input at all."""
    witness = tmp_path / "ran"
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(_Touches(witness)))
    with pytest.raises(UsageError, match=r"no \.npy, \.npz or JSON, and no picture"):
        one(path)
    assert not witness.exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is named with the reason."""
    with pytest.raises(UsageError, match=r"nope\.npy: No such file or directory"):
        one(tmp_path / "nope.npy")


@pytest.mark.parametrize("keep", [20, -30], ids=["header", "data"])
def test_a_truncated_npz_is_refused(tmp_path: Path, keep: int) -> None:
    """An .npz that is cut off is an error with its name, not a crash."""
    path = tmp_path / "cut.npz"
    np.savez(path, x=np.ones((2, 3)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UsageError, match="cannot be read"):
        one(path)


def test_an_unknown_name_is_refused() -> None:
    """A file for an input that the model lacks names those it has."""
    with pytest.raises(UsageError, match=r"--input z: the model has the inputs \['x'\]"):
        gather([], {"z": "file"}, [ROWS])


def test_an_array_for_no_input_is_refused(tmp_path: Path) -> None:
    """An .npz with one right and one unknown name is refused by the unknown one."""
    path = tmp_path / "more.npz"
    np.savez(path, x=np.ones((2, 3)), z=np.ones(1))
    with pytest.raises(UsageError, match=r"holds \['z'\], but the model asks for \['x'\]"):
        one(path)


def test_one_file_for_two_inputs_asks_which(tmp_path: Path) -> None:
    """A bare array for a model of two inputs is refused with the way to say it."""
    specs = [ROWS, TensorSpec("y", INT64, (-1,))]
    with pytest.raises(UsageError, match=r"asks for \['x','y'\].*--input NAME=FILE"):
        gather([str(text(tmp_path, "[1,2,3]"))], {}, specs)


def test_a_file_too_many_is_refused(tmp_path: Path) -> None:
    """A second file for the only input is refused."""
    path = str(text(tmp_path, "[1,2,3]"))
    with pytest.raises(UsageError, match="one file too many"):
        gather([path, path], {}, [ROWS])


def test_no_input_is_refused() -> None:
    """Without a file there is nothing to send."""
    with pytest.raises(UsageError, match="no input"):
        gather([], {}, [ROWS])


class _Touches:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._path,)
