"""Calibration data: what fits, how it is cut, and what is said of the rest."""

import numpy as np
import pytest

from exporter.errors import UsageError
from exporter.variants.calibration import InputSpec, single_rows, split
from service.tensors import Array

_F32 = np.dtype(np.float32)
_IMAGE = [InputSpec("image", _F32, (-1, 4))]


def _rows(count: int) -> Array:
    return np.arange(count * 4, dtype=np.float32).reshape(count, 4)


def test_every_row_teaches_or_judges_once() -> None:
    """A quarter judges, the rest teaches, and no row is lost or doubled."""
    data = split({"image": _rows(40)}, _IMAGE, batched=True)
    teach = np.concatenate([batch["image"] for batch in data.teach])
    judge = np.concatenate([batch["image"] for batch in data.judge])
    assert (len(teach), len(judge)) == (30, 10)
    firsts = sorted([*teach[:, 0], *judge[:, 0]])
    np.testing.assert_array_equal(firsts, _rows(40)[:, 0])


def test_batches_have_several_sizes() -> None:
    """Ranges are learnt at batch 1 and at larger ones."""
    data = split({"image": _rows(40)}, _IMAGE, batched=True)
    assert {1, 3, 8} <= {len(batch["image"]) for batch in data.teach}


def test_values_take_the_type_of_the_input() -> None:
    """Numpy's own float64 is what people have; it becomes what the graph takes."""
    data = split({"image": _rows(16).astype(np.float64)}, _IMAGE, batched=True)
    assert data.teach[0]["image"].dtype == np.float32


def test_sets_of_several_lengths_keep_their_lengths() -> None:
    """Where another axis is free, each set keeps its extent."""
    specs = [InputSpec("tokens", np.dtype(np.int64), (-1, -1))]
    sets = [{"tokens": np.ones((10, length), np.int64)} for length in (5, 9)]
    data = split(sets, specs, batched=True)
    assert {batch["tokens"].shape[1] for batch in data.teach} == {5, 9}


def test_histograms_get_rows_of_one_shape() -> None:
    """The most frequent one, row by row, spread over the data."""
    sets = [{"t": np.full((10, length), length)} for length in (5, 9, 5)]
    rows = single_rows(sets, limit=4)
    assert [row["t"].shape for row in rows] == [(1, 5)] * 4


def test_a_model_without_a_batch_takes_whole_sets() -> None:
    """Rows of a fixed shape are not regrouped."""
    specs = [InputSpec("image", _F32, (2, 4))]
    data = split([{"image": _rows(2)} for _ in range(8)], specs, batched=False)
    assert (len(data.teach), len(data.judge)) == (6, 2)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"image": np.zeros((20, 5), np.float32)}, r"has shape \[20,5\], expected \[-1,4\]"),
        ({"image": np.zeros((20, 4, 1), np.float32)}, r"expected \[-1,4\]"),
        ({"image": np.zeros(4, np.float32)}, r"lack the batch axis"),
        ({"picture": np.zeros((20, 4), np.float32)}, r"\['picture'\], but the inputs are"),
        ({"image": np.zeros((20, 4), np.complex64)}, r"is complex64, expected float32"),
        ({"image": np.full((20, 4), np.nan, np.float32)}, r"NaN or infinity"),
        ({"image": np.zeros((3, 4), np.float32)}, r"has 3 row\(s\); at least 16"),
        ({"image": np.zeros((0, 4), np.float32)}, r"has shape \[0,4\]"),
    ],
)
def test_what_does_not_fit_is_refused(arrays: dict[str, Array], says: str) -> None:
    """The message names the input, what was expected and what came."""
    with pytest.raises(UsageError, match=says):
        split(arrays, _IMAGE, batched=True)


def test_inputs_need_equal_numbers_of_rows() -> None:
    """Rows of two inputs belong together."""
    specs = [*_IMAGE, InputSpec("mask", _F32, (-1, 4))]
    with pytest.raises(UsageError, match="20 rows of 'image', 19 rows of 'mask'"):
        split({"image": _rows(20), "mask": _rows(19)}, specs, batched=True)


def test_no_data_at_all_is_refused() -> None:
    """An empty list of sets is not calibration data."""
    with pytest.raises(UsageError, match="empty"):
        split([], _IMAGE, batched=True)
