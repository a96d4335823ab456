"""How close outputs are: errors, agreement and what is not comparable."""

import numpy as np
import pytest

from exporter.errors import CompressionFailed
from exporter.variants.agreement import closeness
from service.tensors import Tensors

_SCORES = np.array([[0.0, 1.0, 9.0], [5.0, 1.0, 0.0]], np.float32)


def _one(array: object, name: str = "y") -> list[Tensors]:
    return [{name: np.asarray(array)}]


def test_equal_outputs_are_close() -> None:
    """No error, full agreement."""
    found = closeness(_one(_SCORES), _one(_SCORES))
    assert (found.relative_error, found.agreement) == (0.0, 1.0)


def test_the_error_is_relative_to_the_reference() -> None:
    """Twice the reference is 100 % off, whatever its size."""
    assert closeness(_one(_SCORES * 2), _one(_SCORES)).relative_error == pytest.approx(1.0)


def test_a_row_with_another_largest_score_disagrees() -> None:
    """One row of two chooses another class."""
    got = _SCORES[:, ::-1].copy()
    got[1] = _SCORES[1]
    assert closeness(_one(got), _one(_SCORES)).agreement == 0.5


def test_a_tie_is_no_disagreement() -> None:
    """Scores as near as rounding makes them may change places."""
    want = np.array([[1.0, 1.0001, -5.0]], np.float32)
    got = np.array([[1.0001, 1.0, -5.0]], np.float32)
    assert closeness(_one(got), _one(want)).agreement == 1.0


def test_numbers_that_are_none_are_infinitely_far() -> None:
    """NaN where the reference has a number passes no gate; at the same place it is equal."""
    nan = np.array([[np.nan, 1.0]], np.float32)
    number = np.array([[2.0, 1.0]], np.float32)
    found = closeness(_one(nan), _one(number))
    assert (found.relative_error, found.agreement) == (np.inf, 0.0)
    assert closeness(_one(nan), _one(nan)).relative_error == 0.0


def test_integers_agree_element_by_element() -> None:
    """Three of four labels are equal."""
    found = closeness(_one(np.array([1, 2, 3, 4])), _one(np.array([1, 2, 3, 5])))
    assert found.agreement == 0.75


def test_sequences_of_vectors_have_no_classes() -> None:
    """Three axes are embeddings: only the error counts."""
    array = np.ones((2, 3, 4), np.float32)
    assert closeness(_one(array), _one(array)).agreement is None


def test_the_worst_output_counts() -> None:
    """A second output that is off is not averaged away."""
    want = [{"a": _SCORES, "b": _SCORES}]
    got = [{"a": _SCORES, "b": _SCORES * 1.5}]
    assert closeness(got, want).relative_error == pytest.approx(0.5)


@pytest.mark.parametrize(
    "got", [_one(_SCORES, "z"), _one(_SCORES[:1]), _one(_SCORES.astype(np.float16))]
)
def test_another_form_is_another_model(got: list[Tensors]) -> None:
    """Names, shapes and types must stay."""
    with pytest.raises(CompressionFailed, match="became"):
        closeness(got, _one(_SCORES))
