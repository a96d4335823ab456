"""The proof: what passes, what does not, and what the table says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter.cases import Case
from exporter.errors import VerificationFailed
from exporter.proof import compare, prove_parity, prove_rows
from service.repository.manifest import Tolerance
from service.tensors import Array, Tensors

_TOLERANCE = Tolerance(relative=1e-3, absolute=1e-6)
_NAN, _INF = float("nan"), float("inf")


def _case(rows: int, want: Array) -> Case:
    return Case(rows, {"x": np.arange(rows, dtype=np.float32)[:, None]}, {"y": want})


@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_an_output_equals_itself(array: Array) -> None:
    """Whatever an output holds, NaN and infinity included, it passes against itself."""
    found = compare(array, array.copy(), _TOLERANCE)
    assert found.passes
    assert found.max_abs == 0.0


@pytest.mark.parametrize(
    ("got", "want", "passes"),
    [
        ([1.0, 100.05], [1.0, 100.0], True),  # small beside the largest value
        ([1.05, 100.0], [1.0, 100.0], True),  # an element near zero may be off by as much
        ([1.0, 100.2], [1.0, 100.0], False),
        ([5e-7, 0.0], [0.0, 0.0], True),  # nothing to be relative to
        ([5e-6, 0.0], [0.0, 0.0], False),
        ([_NAN, 1.0], [_NAN, 1.0], True),
        ([_NAN, 1.0], [1.0, 1.0], False),
        ([1.0, 1.0], [_NAN, 1.0], False),
        ([_INF, 1.0], [_INF, 1.0], True),
        ([-_INF, 1.0], [_INF, 1.0], False),
        ([_INF, 1.0], [1e30, 1.0], False),
        ([1.0, 1.0], [_INF, 1.0], False),
        ([_INF, 2.0], [_INF, 1.0], False),  # infinity must not hide the rest
    ],
)
def test_floats_may_differ_by_the_tolerance(
    got: list[float],
    want: list[float],
    passes: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    """The difference counts against the largest finite value; special values must agree."""
    found = compare(np.array(got, np.float32), np.array(want, np.float32), _TOLERANCE)
    assert found.passes is passes


def test_integers_and_truths_must_be_equal() -> None:
    """One unit is too much for an integer, and one flip for a truth."""
    whole = np.array([10**6, 3], np.int64)
    assert compare(whole, whole, _TOLERANCE).passes
    assert not compare(whole + np.array([0, 1]), whole, _TOLERANCE).passes
    assert not compare(np.array([True]), np.array([False]), _TOLERANCE).passes


def test_large_integers_are_compared_exactly() -> None:
    """Integers that a double cannot tell apart are told apart."""
    assert not compare(np.array([2**60 + 1]), np.array([2**60]), _TOLERANCE).passes


@pytest.mark.parametrize("got", [np.zeros((2, 1), np.float32), np.zeros(2, np.float64)])
def test_shape_and_type_must_agree(got: Array) -> None:
    """Equal numbers of another shape or type are another output."""
    assert not compare(got, np.zeros(2, np.float32), _TOLERANCE).passes


def test_parity_has_a_line_for_each_batch_and_output() -> None:
    """The report says how far each output is off at each batch size, the worst case of each."""
    want = np.array([[2.0], [4.0]], np.float32)
    cases = [_case(2, want), _case(2, want + 0.002), _case(1, want[:1])]
    runs = iter([{"y": want}, {"y": want}, {"y": want[:1]}])
    parity = prove_parity(lambda _inputs: next(runs), cases, _TOLERANCE).parity
    assert [(p.batch, p.output) for p in parity] == [(2, "y"), (1, "y")]
    assert parity[0].max_abs == pytest.approx(0.002, rel=1e-3)
    assert parity[0].max_rel == pytest.approx(0.0005, rel=1e-2)


def test_what_differs_is_a_table() -> None:
    """Batch, output, differences, what was allowed and where it begins."""
    want = np.array([[1.0], [2.0], [3.0]], np.float32)
    off = want + np.array([[0.0], [0.0], [0.3]], np.float32)
    with pytest.raises(VerificationFailed) as caught:
        prove_parity(lambda _inputs: {"y": off}, [_case(3, want)], _TOLERANCE)
    lines = [line.split() for line in str(caught.value).splitlines()]
    assert ["batch", "output", "max", "abs", "max", "rel", "allowed", "first", "at"] in lines
    assert ["3", "y", "0.3", "0.1", "0.003", "[2,0]"] in lines


def test_independent_rows_pass() -> None:
    """A model that treats each row alone passes, whatever the batch."""
    cases = [_case(rows, np.zeros((rows, 1), np.float32)) for rows in (1, 3, 64)]
    prove_rows(lambda inputs: {"y": inputs["x"] * 2}, cases, _TOLERANCE)


def _mean_removed(inputs: Tensors) -> Tensors:
    return {"y": inputs["x"] - inputs["x"].mean()}


def _first_row_added(inputs: Tensors) -> Tensors:
    return {"y": inputs["x"] + inputs["x"].sum()}


@pytest.mark.parametrize("run", [_mean_removed, _first_row_added])
def test_coupled_rows_are_refused(run: object) -> None:
    """A row that depends on its neighbours is found, and which row it is."""
    case = _case(3, np.zeros((3, 1), np.float32))
    with pytest.raises(VerificationFailed, match=r"(?s)not independent.*of 3 +y"):
        prove_rows(run, [case], _TOLERANCE)  # type: ignore[arg-type]


def _scores(rows: int, small: float = 1e-3) -> Array:
    """Return two columns: one of large values, one of small ones."""
    random = np.random.default_rng(0)
    return (random.uniform(-1, 1, (rows, 2)) * [1e6, small]).astype(np.float32)


def test_a_small_column_is_not_hidden_behind_a_large_one() -> None:
    """A column that became zero fails, though the largest value would allow much more."""
    want = _scores(64)
    off = want * np.array([1, 0], np.float32)
    assert compare(off, want, _TOLERANCE).passes
    with pytest.raises(VerificationFailed, match=r"(?s)column of small values.*y +1 +"):
        prove_parity(lambda _inputs: {"y": off}, [_case(64, want)], _TOLERANCE)


def test_the_worst_column_is_reported() -> None:
    """What passes says which column was furthest off on its own scale."""
    want = _scores(64)
    off = want + np.array([0, 1e-7], np.float32)
    (column,) = prove_parity(lambda _inputs: {"y": off}, [_case(64, want)], _TOLERANCE).columns
    assert (column.output, column.index) == ("y", 1)
    assert column.max_rel == pytest.approx(1e-4, rel=0.1)


def test_a_few_values_make_no_column() -> None:
    """With a handful of rows the largest value of a column is an accident: it is not judged."""
    want = _scores(4)
    off = want * np.array([1, 0], np.float32)
    assert prove_parity(lambda _inputs: {"y": off}, [_case(4, want)], _TOLERANCE).columns == ()


@pytest.mark.parametrize(("gap", "ties"), [(1e-6, 1), (0.5, 0)])
def test_an_index_may_differ_only_between_equal_scores(gap: float, ties: int) -> None:
    """Another argmax passes where the two scores are as good as equal, and is counted."""
    scores = np.array([[0.0, 1.0, 1.0 + gap], [3.0, 1.0, 0.0]], np.float32)
    case = Case(2, {"x": scores}, {"scores": scores, "label": np.array([2, 0])})
    outputs = {"scores": scores, "label": np.array([1, 0])}
    if ties:
        assert prove_parity(lambda _inputs: outputs, [case], _TOLERANCE).ties == {"label": ties}
    else:
        with pytest.raises(VerificationFailed, match=r"2 +label"):
            prove_parity(lambda _inputs: outputs, [case], _TOLERANCE)


def test_an_index_out_of_range_is_no_tie() -> None:
    """A wrong index does not pass for a tie, and does not crash the comparison."""
    scores = np.ones((2, 3), np.float32)
    case = Case(2, {"x": scores}, {"scores": scores, "label": np.array([2, 0])})
    with pytest.raises(VerificationFailed):
        prove_parity(lambda _i: {"scores": scores, "label": np.array([7, 0])}, [case], _TOLERANCE)


def test_the_ranks_of_top_k_may_swap_between_equal_scores() -> None:
    """Top-k indices that changed places with an equal score are ties."""
    scores = np.array([[5.0, 1.0, 1.0]], np.float32)
    case = Case(1, {"x": scores}, {"scores": scores, "top": np.array([[0, 1]])})
    outputs = {"scores": scores, "top": np.array([[0, 2]])}
    assert prove_parity(lambda _inputs: outputs, [case], _TOLERANCE).ties == {"top": 1}


def test_text_must_be_equal() -> None:
    """Class names are compared as they are."""
    names = np.array(["cat", "dog"], dtype=object)
    assert compare(names.copy(), names, _TOLERANCE).passes
    found = compare(np.array(["cat", "cow"], dtype=object), names, _TOLERANCE)
    assert found.first == (1,)
