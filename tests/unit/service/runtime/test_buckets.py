"""Which batch sizes have buffers, and which of them a batch takes."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.buckets import bucket_of, bucket_sizes


@pytest.mark.parametrize(
    ("max_rows", "preferred", "sizes"),
    [
        (1, (), (1,)),
        (8, (), (1, 2, 4, 8)),
        (24, (), (1, 2, 4, 8, 16, 24)),
        (8, (6,), (1, 2, 4, 6, 8)),
        (8, (8, 64), (1, 2, 4, 8)),
    ],
)
def test_sizes(max_rows: int, preferred: Collection[int], sizes: tuple[int, ...]) -> None:
    """Powers of two, what config.pbtxt prefers, and the largest batch."""
    assert bucket_sizes(max_rows, preferred) == sizes


@given(st.integers(1, 4096).flatmap(lambda most: st.tuples(st.just(most), st.integers(1, most))))
def test_every_batch_has_a_bucket(case: tuple[int, int]) -> None:
    """The bucket holds the batch and is less than twice as large."""
    max_rows, rows = case
    size = bucket_of(rows, bucket_sizes(max_rows))
    assert size is not None
    assert rows <= size < 2 * rows or size == rows


def test_larger_than_the_largest() -> None:
    """A batch that fits nowhere has no bucket."""
    assert bucket_of(9, (1, 8)) is None
